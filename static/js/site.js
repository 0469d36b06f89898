// What scripts add to the pages. Everything works without them; with them it works in place.

import { copy } from "./copy.js";
import "./forget.js";
import { usePasskeys } from "./passkeys.js";
import { revealOnce } from "./reveal.js";
import "./timezone.js";

// --- Dialogs: in place instead of on a page of their own ----------------------------------------

for (const dialog of document.querySelectorAll("dialog[open]")) {
  // The server opened it for browsers without scripts. Modal is better: it holds the focus.
  dialog.removeAttribute("open");
  dialog.showModal();
  // Nothing had the focus before: where it goes to is the button that would have opened it.
  dialog.addEventListener("close", () => document.querySelector(`[data-opens="${dialog.id}"]`)?.focus());
}

for (const button of document.querySelectorAll("[data-opens]")) {
  const dialog = document.getElementById(button.dataset.opens);
  if (!dialog) continue;
  button.addEventListener("click", (event) => {
    event.preventDefault();
    dialog.showModal();
  });
}

const deletion = document.getElementById("delete-key");
for (const button of document.querySelectorAll("[data-deletes]")) {
  button.addEventListener("click", (event) => {
    event.preventDefault();
    deletion.querySelector("form").action = button.form.action;
    deletion.querySelector("h2").textContent = button.dataset.deletes;
    deletion.showModal();
  });
}

// --- Two presses of Generate send one form ------------------------------------------------------

for (const form of document.querySelectorAll("form[data-once]")) {
  let sent = false;
  form.addEventListener("submit", (event) => {
    if (event.submitter?.formMethod === "dialog") return;
    if (sent) event.preventDefault();
    sent = true;
    event.submitter?.setAttribute("aria-disabled", "true");
  });
  // Back from the next page: the form may be sent again (and the server knows it by its nonce).
  addEventListener("pageshow", () => {
    sent = false;
    form.querySelector("[aria-disabled]")?.removeAttribute("aria-disabled");
  });
}

// --- A key that is pasted whole is looked for by what may be shown of it ------------------------

for (const input of document.querySelectorAll('input[type="search"]')) {
  // The rest of it would be in the address, where the server refuses it.
  input.form?.addEventListener("submit", () => {
    input.value = input.value.replace(/(comfyui-[0-9a-f]{12})[0-9a-f]+/gi, "$1");
  });
}

// --- Passwords: show and hide -------------------------------------------------------------------

const words = document.documentElement.dataset;
for (const input of document.querySelectorAll('input[type="password"]')) {
  const box = document.createElement("div");
  box.className = "password";
  const button = document.createElement("button");
  button.type = "button";
  const update = () => {
    const hidden = input.type === "password";
    button.textContent = hidden ? words.show : words.hide;
    button.setAttribute("aria-pressed", String(!hidden));
  };
  button.setAttribute("aria-controls", input.id);
  button.addEventListener("click", () => {
    input.type = input.type === "password" ? "text" : "password";
    update();
  });
  // A password manager, or a person looking on, must not find it in the clear.
  input.form?.addEventListener("submit", () => {
    input.type = "password";
    update();
  });
  input.replaceWith(box);
  box.append(input, button);
  update();
}

// --- A public device is one for every way of logging in on the page ------------------------------

const publicDevice = document.querySelector('input[name="public_device"]');
for (const form of publicDevice ? document.querySelectorAll("form[data-minds-public-device]") : []) {
  const copy = Object.assign(document.createElement("input"), { type: "hidden", name: "public_device" });
  form.append(copy);
  const update = () => {
    copy.disabled = !publicDevice.checked;
    copy.value = "on";
  };
  publicDevice.addEventListener("change", update);
  addEventListener("pageshow", update);
  update();
}

// --- Commands: copied by a button ---------------------------------------------------------------

for (const button of document.querySelectorAll("[data-copies]")) {
  const shown = document.getElementById(button.dataset.copies);
  const words = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    getSelection().selectAllChildren(shown);
    const done = await copy(shown.textContent);
    button.textContent = done ? button.dataset.copied : button.dataset.failed;
    setTimeout(() => (button.textContent = words), 4000);
  });
}

// --- Exact times, in the reader's own zone ------------------------------------------------------

const exact = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "full", timeStyle: "long" });
for (const time of document.querySelectorAll("time[datetime][title]")) {
  time.title = exact.format(new Date(time.dateTime));
}

// --- What is shown once is not there when one comes back ----------------------------------------

for (const shown of document.querySelectorAll("[data-secret]")) {
  addEventListener("pagehide", () => shown.replaceChildren());
  // Kept whole by the browser, the page would be a heading and nothing else.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}

usePasskeys();
revealOnce(document.getElementById("reveal"));
