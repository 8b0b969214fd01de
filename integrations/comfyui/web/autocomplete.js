// Lists tags below the text fields `caption` and `tag` of the nodes while somebody types.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const FIELDS = ["caption", "tag"];
const WAIT_MS = 120;

const COLORS = { general: "#5aa9ff", artist: "#ff8a8b", copyright: "#c797ff", character: "#35c64a", meta: "#ead084" };

const list = document.createElement("ul");
list.className = "booru-embed-tags";
list.setAttribute("role", "listbox");
list.hidden = true;
const style = document.createElement("style");
style.textContent = `
.booru-embed-tags { position: fixed; z-index: 10000; margin: 0; padding: 4px; list-style: none; max-width: 28em;
  max-height: 16em; overflow: auto; font: 13px/1.4 system-ui, sans-serif; color: var(--input-text, #ddd);
  background: var(--comfy-menu-bg, #222); border: 1px solid var(--border-color, #4e4e4e); border-radius: 6px;
  box-shadow: 0 4px 16px #0008; }
.booru-embed-tags[hidden] { display: none; }
.booru-embed-tags li { display: flex; gap: 1em; justify-content: space-between; padding: 2px 8px; border-radius: 4px;
  cursor: pointer; white-space: nowrap; }
.booru-embed-tags li[aria-selected="true"] { background: var(--comfy-input-bg, #444); }
.booru-embed-tags small { opacity: 0.7; }`;

let field = null; // whose tags are listed
let tags = [];
let chosen = 0;
let asked = 0;

function close() {
  list.hidden = true;
  field = null;
  asked++; // an answer that is still to come is late
}

// The text of the node "Load booru-embed" that is linked to `node`.
function checkpointOf(node) {
  const link = node.inputs?.find((input) => input.name === "model")?.link;
  const origin = link == null ? null : node.graph?.getNodeById(node.graph.links[link]?.origin_id);
  return origin?.widgets?.find((widget) => widget.name === "checkpoint")?.value ?? "";
}

async function ask(node, element) {
  const number = ++asked;
  const text = element.value.slice(0, element.selectionStart);
  const query = new URLSearchParams({ text: text.slice(-200), checkpoint: checkpointOf(node) });
  const answer = await api.fetchApi(`/booru_embed/tags?${query}`);
  if (number !== asked || document.activeElement !== element) return;
  if (!answer.ok) {
    console.warn("booru-embed:", (await answer.json()).error);
    close();
    return;
  }
  tags = await answer.json();
  if (number !== asked) return;
  chosen = 0;
  field = element;
  draw();
}

function draw() {
  list.replaceChildren(
    ...tags.map((one, index) => {
      const item = document.createElement("li");
      item.setAttribute("role", "option");
      item.setAttribute("aria-selected", String(index === chosen));
      const name = document.createElement("span");
      name.style.color = COLORS[one.category];
      name.textContent = one.alias ? `${one.alias} → ${one.tag}` : one.tag;
      const count = document.createElement("small");
      count.textContent = one.count.toLocaleString();
      item.append(name, count);
      item.addEventListener("pointerdown", (event) => {
        event.preventDefault(); // the field keeps the focus
        take(index);
      });
      return item;
    }),
  );
  list.hidden = tags.length === 0;
  if (list.hidden) return;
  const box = field.getBoundingClientRect();
  list.style.left = `${box.left}px`;
  list.style.top = `${Math.min(box.bottom + 2, window.innerHeight - list.offsetHeight - 4)}px`;
  list.children[chosen]?.scrollIntoView({ block: "nearest" });
}

function take(index) {
  const element = field;
  const { insert, typed } = tags[index];
  const end = element.selectionStart;
  const text = element.value.slice(0, end);
  const isWord = !/[,;|\n]/.test(text) && /\s/.test(text.trim()) && typed < text.trimStart().length;
  element.setRangeText(isWord ? `${tags[index].tag} ` : `${insert}, `, end - typed, end, "end");
  close();
  element.dispatchEvent(new Event("input", { bubbles: true }));
  close(); // the event asks again
}

function onKey(event) {
  if (list.hidden || field !== event.target) return;
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    chosen = (chosen + (event.key === "ArrowDown" ? 1 : tags.length - 1)) % tags.length;
    draw();
  } else if ((event.key === "Enter" && !event.ctrlKey && !event.metaKey) || event.key === "Tab") {
    take(chosen);
  } else if (event.key === "Escape") {
    close();
  } else {
    return;
  }
  event.preventDefault();
  event.stopPropagation();
}

function listen(node, element) {
  let timer;
  element.addEventListener("input", (event) => {
    clearTimeout(timer);
    if (event.isTrusted) timer = setTimeout(() => ask(node, element), WAIT_MS);
  });
  element.addEventListener("keydown", onKey, true);
  element.addEventListener("blur", close);
}

app.registerExtension({
  name: "booru_embed.autocomplete",
  setup() {
    document.head.append(style);
    document.body.append(list);
    window.addEventListener("wheel", close, { passive: true });
  },
  nodeCreated(node) {
    if (!node.comfyClass?.startsWith("BooruEmbed")) return;
    for (const widget of node.widgets ?? []) {
      const element = widget.element ?? widget.inputEl;
      if (FIELDS.includes(widget.name) && element instanceof HTMLTextAreaElement) listen(node, element);
    }
  },
});
