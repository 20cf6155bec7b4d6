// A link from `paystate dev` has the token after the #, which no browser sends to a server.
"use strict";

const shown = new URLSearchParams(location.hash.slice(1)).get("token");
if (shown) {
  history.replaceState(null, "", location.pathname);
  document.getElementById("token").value = shown;
  document.querySelector("form").requestSubmit();
}
