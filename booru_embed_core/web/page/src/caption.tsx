// The caption: its chips, the field that completes tags, and the controls of the suggestions.

import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import * as api from "./api.ts";
import { Combobox } from "./combobox.tsx";
import { percent } from "./components.tsx";
import * as state from "./state.ts";

const MATCHES = 10;
const RATING_NAMES: Record<string, string> = { g: "general", s: "sensitive", q: "questionable", e: "explicit" };
const SCORES = [null, -5, 0, 1, 2, 5, 10, 20, 50, 100, 200, 500]; // most scores are below a few dozen

const find = async (prefix: string, signal: AbortSignal) => {
  const query = { tags: state.caption.value, k: MATCHES, prefix: prefix.trim(), ...state.metadata.value };
  const { completions } = await api.complete(query, signal);
  return completions
    .filter(({ tag, is_excluded }) => !(is_excluded ? state.excluded : state.names).value.includes(tag))
    .map((match) => ({ ...match, note: percent(match.probability) }));
};

function Chip({ name, isExcluded = false }: { name: string; isExcluded?: boolean }) {
  const category = state.categoryOf.value.get(name);
  const weight = state.weightOf.value.get(name) ?? 1;
  const remove = () => {
    state.removeTags([name]);
    document.getElementById("tags")?.focus();
  };
  return (
    <li class={`chip ${isExcluded ? "excluded" : (category ?? (category === null ? "unknown" : ""))}`}>
      {category === null ? (
        <span class="name" title="Not in the vocabulary; ignored">
          {name} <span class="flag">unknown</span>
        </span>
      ) : (
        <button type="button" class="name" title={`Show the tags near ${name}`}
          onClick={() => (state.focused.value = name)}>
          {isExcluded && <span class="flag">without </span>}
          {name}
          {!isExcluded && weight !== 1 && <span class="weight"> × {Number(weight.toFixed(3))}</span>}
        </button>
      )}
      <button type="button" class="remove" aria-label={`Remove ${name}`} onClick={remove}>×</button>
    </li>
  );
}

function Rating() {
  const ratings = state.info.value.value?.ratings ?? [];
  if (ratings.length === 0) return null;
  return (
    <fieldset class="segments">
      <legend>Rating</legend>
      {[null, ...ratings].map((rating) => (
        <label key={rating}>
          <input type="radio" name="rating" checked={state.rating.value === rating}
            onChange={() => state.setRating(rating)} />
          <span>{rating === null ? "any" : (RATING_NAMES[rating] ?? rating)}</span>
        </label>
      ))}
    </fieldset>
  );
}

function Score() {
  if ((state.info.value.value?.ratings ?? []).length === 0) return null;
  const hasRating = state.rating.value !== null;
  const score = state.score.value;
  const step = score === null ? 0 : SCORES.findLastIndex((other) => other !== null && other <= score);
  const words = !hasRating ? "needs a rating" : score === null ? "any" : String(score);
  return (
    <div class="score">
      <label for="score">Score</label>
      <input id="score" type="range" min={0} max={SCORES.length - 1} value={Math.max(step, 0)} disabled={!hasRating}
        aria-valuetext={words}
        onInput={(event) => state.setScore(SCORES[event.currentTarget.valueAsNumber] ?? null)} />
      <output for="score">{words}</output>
    </div>
  );
}

function Categories() {
  return (
    <fieldset class="segments separate">
      <legend>Suggest</legend>
      {state.categories.value.map((category) => (
        <label key={category} class={category}>
          <input type="checkbox" checked={!state.banned.value.has(category)}
            onChange={() => state.toggleCategory(category)} />
          <span>{category}</span>
        </label>
      ))}
    </fieldset>
  );
}

/** Draws further tags, and gives the caption as a prompt for another program. */
function Completing() {
  const amount = useSignal(10);
  const copied = useSignal<string | null>(null);
  const field = useRef<HTMLInputElement>(null);
  const prompt = state.prompt.value.value ?? "";
  const copy = async () => {
    field.current?.select(); // where the browser allows no writing, the user copies what is selected
    try {
      await navigator.clipboard.writeText(prompt);
      copied.value = prompt;
      state.announcement.value = "Copied the prompt";
    } catch {
      state.announcement.value = "The browser does not allow copying; the prompt is selected";
    }
  };
  const failure = state.filled.error.value ?? state.prompt.error.value;
  return (
    <div class="completing">
      <form onSubmit={(event) => { event.preventDefault(); void state.fill(amount.value); }}>
        <button type="submit" class="action" disabled={state.filled.isLoading.value || state.allowed.value.length === 0}>
          Fill the caption
        </button>
        <label>with <input type="number" min={1} max={100} required value={amount.value}
          onInput={(event) => (amount.value = event.currentTarget.valueAsNumber || 1)} /> tags</label>
      </form>
      {prompt !== "" && (
        <div class="prompt">
          <label for="dialect">Prompt for</label>
          <select id="dialect" value={state.dialect.value}
            onChange={(event) => (state.dialect.value = event.currentTarget.value as api.Dialect)}>
            {Object.entries(api.DIALECTS).map(([name, title]) => <option key={name} value={name}>{title}</option>)}
          </select>
          <input aria-label="Prompt" ref={field} type="text" readOnly value={prompt} />
          <button type="button" class="action" onClick={copy}>
            {copied.value === prompt ? "Copied ✓" : "Copy as prompt"}
          </button>
        </div>
      )}
      {failure !== null && <p class="problem" role="alert">{failure}</p>}
    </div>
  );
}

function Notes() {
  const notes = state.notes.value;
  if (notes.length === 0) return null;
  return (
    <details class="notes" open={notes.length <= 3}>
      <summary>How your text was read: {notes.length} {notes.length === 1 ? "note" : "notes"}</summary>
      <ul>{notes.map((note) => <li key={note}>{note}</li>)}</ul>
    </details>
  );
}

export function Caption() {
  const names = state.names.value;
  const excluded = state.excluded.value;
  const all = [...names, ...excluded];
  const removeLast = () => {
    const last = all.at(-1);
    if (last !== undefined) state.removeTags([last]);
  };
  return (
    <section class="caption card" aria-label="Caption">
      <Combobox id="tags" label="Add a tag" find={find} onText={state.addText} onBackspaceAtStart={removeLast}
        placeholder={all.length === 0 ? "Type a tag, or paste a prompt" : "Add a tag"}
        onPick={({ tag, category, is_excluded }) => (is_excluded ? state.excludeTag : state.addTag)(tag, category)}
        before={all.length > 0 && (
          <ul class="chips" aria-label="Tags of the caption">
            {names.map((name) => <Chip key={name} name={name} />)}
            {excluded.map((name) => <Chip key={`-${name}`} name={name} isExcluded />)}
          </ul>
        )}
        after={all.length > 1 && (
          <button type="button" class="clear" onClick={() => state.removeTags(all)}>Clear</button>
        )}
      />
      <Notes />
      <Completing />
      <div class="controls">
        <Rating />
        <Score />
        <Categories />
      </div>
    </section>
  );
}
