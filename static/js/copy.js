// Copies a text, on whatever kind of page this is.

export async function copy(text) {
  try {
    // There on https and on one's own machine only.
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // On a plain-http LAN the old way is the only one. It copies what is selected.
    return document.execCommand("copy");
  }
}
