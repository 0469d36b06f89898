// Passkeys: the browser's own dialogs, and what comes of them sent as a form (WebAuthn Level 3).

// Without these two a form for passkeys can do nothing, and stays hidden.
const able = "PublicKeyCredential" in window && "parseCreationOptionsFromJSON" in PublicKeyCredential;

const ceremonies = {
  async create(form) {
    const { publicKey } = JSON.parse(document.getElementById(form.dataset.options).textContent);
    // One that logs in by itself: kept by the device, opened by its owner.
    Object.assign((publicKey.authenticatorSelection ??= {}), {
      residentKey: "required",
      requireResidentKey: true,
      userVerification: "required",
    });
    return navigator.credentials.create({ publicKey: PublicKeyCredential.parseCreationOptionsFromJSON(publicKey) });
  },

  async get(form) {
    const { publicKey } = await requestOptions(form);
    return navigator.credentials.get({ publicKey: PublicKeyCredential.parseRequestOptionsFromJSON(publicKey) });
  },
};

async function requestOptions(form) {
  if (form.dataset.options) return JSON.parse(document.getElementById(form.dataset.options).textContent);
  // Nobody is known yet on the login page: the challenge is asked for when it is wanted.
  const response = await fetch(form.action, { headers: { Accept: "application/json" } });
  if (!response.ok) throw new Error(`${response.status}`);
  return (await response.json()).request_options;
}

export function usePasskeys() {
  if (able) document.querySelector("[data-without-passkeys]")?.remove();
  for (const form of able ? document.querySelectorAll("form[data-passkey]") : []) {
    form.hidden = false;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const trouble = form.querySelector('[role="alert"]');
      trouble.hidden = true;
      try {
        const credential = await ceremonies[form.dataset.passkey](form);
        form.elements.credential.value = JSON.stringify(credential);
        form.submit();
      } catch (error) {
        const { cancelled, known, failed } = trouble.dataset;
        trouble.textContent = { NotAllowedError: cancelled, InvalidStateError: known }[error.name] ?? failed;
        trouble.hidden = false;
      }
    });
  }
}
