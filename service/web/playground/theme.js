// Light or dark: what the system says, until the person at the page says otherwise.

const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");

root.dataset.theme = stored() ?? "";

/** Makes a button switch between the two, and remembers the choice in this browser. */
export function themeSwitch(button) {
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => {
    button.textContent = dark() ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to the ${dark() ? "light" : "dark"} colours`);
  };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    store(root.dataset.theme);
    show();
  });
  system.addEventListener("change", show);
  show();
}

function stored() {
  try {
    return localStorage.getItem("polytask-theme");
  } catch {
    return null; // a browser that keeps nothing
  }
}

function store(theme) {
  try {
    localStorage.setItem("polytask-theme", theme);
  } catch {
    // it lasts until the page is left
  }
}
