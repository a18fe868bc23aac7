// Exchanges a typed API key, or the ticket of a link, for a session cookie.
import { request, under } from "./service.js";

const wrong = document.querySelector("#wrong");

async function open(credentials) {
  wrong.textContent = "";
  try {
    await request("POST", "/sign-in", credentials);
  } catch (error) {
    wrong.textContent = error.message;
    return;
  }
  // Only same-origin paths: a link must not redirect to another site after the sign-in.
  const next = new URL(new URLSearchParams(location.search).get("next") ?? under("/"), location.origin);
  location.replace(next.origin === location.origin ? next.pathname + next.search : under("/"));
}

document.querySelector("#sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  open({ key: document.querySelector("#key").value.trim() });
});

const provider = document.querySelector("#provider");
if (provider) provider.search = location.search; // the page to return to

const ticket = new URLSearchParams(location.hash.slice(1)).get("ticket");
if (ticket) {
  history.replaceState(null, "", location.pathname + location.search); // removes the used ticket from the address bar
  open({ ticket });
} else {
  document.querySelector("#key").focus();
}
