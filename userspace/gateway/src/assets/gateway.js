// The form at /login: exchanges a user name and a password for the cluster's cookies, then goes on to the page that was asked for.
"use strict";

function next() {
  const then = new URL(location.href).searchParams.get("then") || "/";
  const target = new URL(then, location.origin);
  // Another site must not be able to use this page as its stepping stone.
  return target.origin === location.origin ? target.pathname + target.search : "/";
}

document.getElementById("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const problem = document.getElementById("problem");
  problem.textContent = "";
  try {
    const reply = await fetch("/acs/api/v1/auth/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ uid: form.get("uid"), password: form.get("password") }),
    });
    if (reply.ok) {
      location.replace(next());
      return;
    }
    const body = await reply.json().catch(() => ({}));
    problem.textContent = body.description || body.message || "Logging in failed.";
  } catch {
    problem.textContent = "The cluster cannot be reached. Try again in a moment.";
  }
});
