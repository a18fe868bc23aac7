"""Notifies users of the start and the end of their jobs: webhooks, chats and mail."""
