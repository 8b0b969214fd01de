// The caption: its chips, the field that completes tags, and the controls of the suggestions.

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
    .filter(({ tag }) => !state.names.value.includes(tag))
    .map((match) => ({ ...match, note: percent(match.probability) }));
};

function Chip({ name }: { name: string }) {
  const category = state.categoryOf.value.get(name);
  const remove = () => {
    state.removeTags([name]);
    document.getElementById("tags")?.focus();
  };
  return (
    <li class={`chip ${category ?? (category === null ? "unknown" : "")}`}>
      {category === null ? (
        <span class="name" title="Not in the vocabulary; ignored">
          {name} <span class="flag">unknown</span>
        </span>
      ) : (
        <button type="button" class="name" title={`Show the tags near ${name}`}
          onClick={() => (state.focused.value = name)}>{name}</button>
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

export function Caption() {
  const names = state.names.value;
  const removeLast = () => {
    const last = names.at(-1);
    if (last !== undefined) state.removeTags([last]);
  };
  return (
    <section class="caption card" aria-label="Caption">
      <Combobox id="tags" label="Add a tag" find={find} onText={state.addText} onBackspaceAtStart={removeLast}
        placeholder={names.length === 0 ? "Type a tag, or paste a prompt" : "Add a tag"}
        onPick={({ tag, category }) => state.addTag(tag, category)}
        before={names.length > 0 && (
          <ul class="chips" aria-label="Tags of the caption">
            {names.map((name) => <Chip key={name} name={name} />)}
          </ul>
        )}
        after={names.length > 1 && (
          <button type="button" class="clear" onClick={() => state.removeTags(names)}>Clear</button>
        )}
      />
      <div class="controls">
        <Rating />
        <Score />
        <Categories />
      </div>
    </section>
  );
}
