// A text field that lists matching options: the "editable combobox with list autocomplete" pattern of WAI-ARIA.

import { useSignal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Tag } from "./api.ts";
import { Latest } from "./latest.ts";

const PAUSE_MS = 30; // shorter than between two keys: typing feels immediate, and a held key sends few requests

export interface Option extends Tag {
  /** Text at the right edge. */
  note?: string;
  alias?: string | null;
  match?: string | null;
  is_excluded?: boolean;
}

interface Props {
  id: string;
  label: string;
  placeholder: string;
  find: (text: string, signal: AbortSignal) => Promise<Option[]>;
  onPick: (option: Option) => void;
  /** Takes free text; without it only options can be picked. Throws ApiError. */
  onText?: (text: string) => Promise<void>;
  onBackspaceAtStart?: () => void;
  /** Content of the field before and after the text. */
  before?: ComponentChildren;
  after?: ComponentChildren;
}

const spelled = (text: string) => text.trim().toLowerCase().replace(/\s+/g, "_");

/** The index of the option that `text` spells out, else of the first. */
const nearest = (options: Option[], text: string) =>
  Math.max(0, options.findIndex(({ tag, alias }) => [tag, alias].includes(spelled(text))));

export function Combobox(props: Props) {
  const { id, label, placeholder, find, onPick, onText, onBackspaceAtStart, before, after } = props;
  const text = useSignal("");
  const active = useSignal(0);
  const isOpen = useSignal(false);
  const failure = useSignal<string | null>(null);
  const options = useRef(new Latest<Option[]>()).current;
  const list = useRef<HTMLUListElement>(null);

  const type = (value: string) => {
    text.value = value;
    failure.value = null;
    active.value = 0;
    isOpen.value = value.trim() !== "";
    if (!isOpen.value) {
      options.clear();
      return;
    }
    void options.run(async (signal) => {
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      signal.throwIfAborted();
      const found = await find(value, signal);
      active.value = nearest(found, value);
      return found;
    });
  };
  const pick = (option: Option) => {
    type("");
    onPick(option);
  };
  // Clears the field at once: text typed while the server answers belongs to the next tag.
  const take = async (value: string, isChoice = false) => {
    if (value.trim() === "" || (onText === undefined && !isChoice)) return;
    type("");
    try {
      const found = isChoice ? await find(value, new AbortController().signal) : [];
      const option = found[nearest(found, value)];
      if (option !== undefined) onPick(option);
      else if (onText !== undefined) await onText(value);
      else if (text.value === "") type(value);
    } catch (error) {
      if (!(error instanceof Error)) throw error;
      text.value = text.value === "" ? value : `${value}, ${text.value}`;
      isOpen.value = false;
      failure.value = error.message;
    }
  };
  const enter = () => {
    const isListed = isOpen.value && options.error.value === null;
    // Enter right after typing refers to the list that is still loading.
    if (isListed && options.isLoading.value) return void take(text.value, true);
    const option = isListed ? options.value.value?.[active.value] : undefined;
    if (option !== undefined) pick(option);
    else void take(text.value);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const shown = options.value.value?.length ?? 0;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.isComposing) return;
    if (step !== undefined && shown > 0) {
      event.preventDefault();
      if (isOpen.value) active.value = (active.value + step + shown) % shown;
      isOpen.value = true;
    } else if (event.key === "Enter" || (event.key === "Tab" && !event.shiftKey && text.value.trim() !== "")) {
      event.preventDefault();
      enter();
    } else if (event.key === "Escape") {
      if (!isOpen.value) type("");
      isOpen.value = false;
    } else if (event.key === "," && onText !== undefined) {
      event.preventDefault();
      void take(text.value);
    } else if (event.key === "Backspace" && (event.target as HTMLInputElement).value === "") {
      onBackspaceAtStart?.();
    }
  };
  const onPaste = (event: ClipboardEvent) => {
    const pasted = event.clipboardData?.getData("text") ?? "";
    if (onText === undefined || !/[\s,]/.test(pasted.trim())) return;
    event.preventDefault();
    text.value = `${text.value}${pasted.replace(/\s*\n\s*/g, ", ")}`;
    isOpen.value = false;
    void take(text.value);
  };

  const found = options.value.value ?? [];
  const message = failure.value ?? options.error.value;
  useEffect(() => list.current?.children[active.value]?.scrollIntoView({ block: "nearest" }), [active.value]);
  const isShown = isOpen.value && message === null && (found.length > 0 || !options.isLoading.value);
  return (
    <div class="combobox">
      <div class="field" onClick={(event) => event.target === event.currentTarget && document.getElementById(id)?.focus()}>
        {before}
        <input
          id={id}
          type="text"
          role="combobox"
          aria-label={label}
          aria-autocomplete="list"
          aria-expanded={isShown && found.length > 0}
          aria-controls={`${id}-list`}
          aria-activedescendant={isShown && found.length > 0 ? `${id}-${active.value}` : undefined}
          aria-describedby={message === null ? undefined : `${id}-error`}
          placeholder={placeholder}
          autocomplete="off"
          autocapitalize="off"
          spellcheck={false}
          value={text.value}
          onInput={(event) => type(event.currentTarget.value)}
          onKeyDown={onKeyDown}
          onPaste={onPaste}
          onFocus={() => (isOpen.value = text.value.trim() !== "")}
          onBlur={() => (isOpen.value = false)}
        />
        {after}
      </div>
      {/* mousedown would move the focus away from the field and close the list */}
      <ul id={`${id}-list`} class="options" role="listbox" aria-label={`${label}: matches`} ref={list}
        hidden={!isShown || found.length === 0} onMouseDown={(event) => event.preventDefault()}>
        {found.map((option, index) => (
          <li key={`${option.category} ${option.tag}`} id={`${id}-${index}`} role="option" class={option.category}
            aria-selected={index === active.value} onClick={() => pick(option)}>
            <span class="name">
              {option.is_excluded && <span class="alias">without </span>}
              {option.alias != null && <span class="alias">{option.alias} → </span>}
              {option.tag}
              {option.match === "typo" && <span class="flag">corrected</span>}
            </span>
            <span class="note">{option.note}</span>
          </li>
        ))}
      </ul>
      {isShown && found.length === 0 && (
        <p class="options none">
          No tag matches this.{onText !== undefined && " Press Enter to add it anyway."}
        </p>
      )}
      {message !== null && <p id={`${id}-error`} class="problem" role="alert">{message}</p>}
    </div>
  );
}
