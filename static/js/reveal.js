// The one showing of a new key: copy it, and leave nothing of it behind.

import { copy } from "./copy.js";

export function revealOnce(dialog) {
  if (!dialog) return;
  const field = dialog.querySelector("#plaintext");
  const button = dialog.querySelector("#copy");
  const state = dialog.querySelector("#copy-state");
  let copied = false;

  // A reload now asks for the list, not for the form to be sent once more.
  history.replaceState(null, "", dialog.dataset.home);

  // Escape would close the dialog with the key still in the page, out of sight.
  dialog.addEventListener("cancel", (event) => event.preventDefault());

  // Browsers that don't know closedby let a second Escape through all the same.
  dialog.addEventListener("close", () => dialog.showModal());

  const done = () => {
    copied = true;
    state.textContent = button.dataset.copied;
    state.classList.add("done");
  };

  button.hidden = false;
  button.focus();
  button.addEventListener("click", async () => {
    field.select();
    if (await copy(field.value)) {
      done();
      // Selecting moved the focus; the next Tab should lead to Close.
      button.focus();
    } else state.textContent = button.dataset.failed;
  });
  // By hand counts as well.
  field.addEventListener("copy", () => {
    if (field.selectionEnd - field.selectionStart === field.value.length) done();
  });
  field.addEventListener("focus", () => field.select());

  addEventListener("beforeunload", (event) => {
    if (!copied) event.preventDefault();
  });

  // Browsers keep whole pages for Back, no-store or not: this one must not have the key in it.
  const scrub = () => {
    field.value = "";
    field.textContent = "";
  };
  addEventListener("pagehide", scrub);
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    scrub();
    location.replace(dialog.dataset.home);
  });
}
