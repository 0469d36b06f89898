// Recovery codes: copy, download and print. The file is made here: the server shows them once.

import { copy } from "./copy.js";

export function offerCodes(list) {
  const panel = list.closest("section");
  const [copies, downloads, prints] = ["copy", "download", "print"].map((name) =>
    panel.querySelector(`[data-codes-${name}]`),
  );
  const state = panel.querySelector("[data-codes-state]");
  const codes = () => [...list.querySelectorAll("code")].map((code) => code.textContent).join("\n");
  for (const button of [copies, downloads, prints]) button.hidden = false;

  copies.addEventListener("click", async () => {
    // The old way to copy takes what is selected.
    getSelection().selectAllChildren(list);
    const label = copies.querySelector("span");
    const words = label.textContent;
    label.textContent = state.textContent =
      (await copy(codes())) ? copies.dataset.copied : copies.dataset.failed;
    setTimeout(() => (label.textContent = words), 4000);
  });

  downloads.addEventListener("click", () => {
    const text = `${list.dataset.codes}\n\n${codes()}\n`;
    const url = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    Object.assign(document.createElement("a"), { href: url, download: list.dataset.file }).click();
    URL.revokeObjectURL(url);
  });

  prints.addEventListener("click", () => print());
}
