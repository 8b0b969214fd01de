// Light or dark: the system's choice until the user chooses.

import { computed, effect, signal } from "@preact/signals";

type Theme = "light" | "dark";
const KEY = "booru-embed-theme";

const system = matchMedia("(prefers-color-scheme: dark)");
const systemTheme = signal<Theme>(system.matches ? "dark" : "light");
const kept = localStorage.getItem(KEY);
const chosen = signal<Theme | null>(kept === "light" || kept === "dark" ? kept : null);

/** The theme in effect; set after the style sheet has switched, so that effects read its colours. */
export const shownTheme = signal<Theme>("light");
const theme = computed(() => chosen.value ?? systemTheme.value);

export function startTheme(): void {
  system.addEventListener("change", () => (systemTheme.value = system.matches ? "dark" : "light"));
  effect(() => {
    document.documentElement.dataset.theme = theme.value;
    shownTheme.value = theme.value;
  });
}

export function ThemeToggle() {
  const other: Theme = theme.value === "dark" ? "light" : "dark";
  const choose = () => {
    chosen.value = other;
    localStorage.setItem(KEY, other);
  };
  return (
    <button type="button" class="theme" aria-label={`Use the ${other} theme`} title={`Use the ${other} theme`}
      onClick={choose}>
      {other === "dark" ? "☾" : "☀"}
    </button>
  );
}
