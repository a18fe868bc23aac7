"""The inner and the outer objective of a problem and their derivatives."""
