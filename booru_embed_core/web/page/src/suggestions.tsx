// The most probable further tags, by category.

import { Panel, percent, TagRow } from "./components.tsx";
import * as state from "./state.ts";

/** Names what the suggestions leave out. */
function Implied() {
  const implied = state.suggestions.value.value?.implied ?? [];
  const left = implied.filter(({ tag }) => !state.names.value.includes(tag));
  if (state.showsImplied.value || left.length === 0) return null;
  return (
    <p class="implied">
      The caption implies{" "}
      {left.map(({ tag, category }) => (
        <button key={tag} type="button" class={category} title={`Add ${tag}`} onClick={() => state.addTag(tag, category)}>
          {tag}
        </button>
      ))}
    </p>
  );
}

export function Suggestions() {
  const isEmpty = state.names.value.length === 0;
  return (
    <section aria-labelledby="suggestions-title">
      <header class="title">
        <h2 id="suggestions-title">Suggestions</h2>
        <p>{isEmpty ? "The most frequent tags of captions" : "The most probable further tags of this caption"}</p>
        <label class="switch">
          <input type="checkbox" role="switch" checked={state.showsImplied.value}
            onChange={() => (state.showsImplied.value = !state.showsImplied.value)} />
          <span>Show tags that the caption implies</span>
        </label>
      </header>
      <Implied />
      {state.allowed.value.length === 0 ? (
        <p class="state card">All categories are switched off; switch one on above.</p>
      ) : (
        <Panel of={state.suggestions} retry={state.retrySuggestions} rows={5}>
          {({ completions }) => {
            const left = completions.filter(({ tag }) => !state.names.value.includes(tag));
            const columns = state.allowed.value
              .map((category) => ({ category, tags: left.filter((one) => one.category === category) }))
              .filter(({ tags }) => tags.length > 0);
            if (columns.length === 0) return <p class="state card">No tag is left to suggest.</p>;
            return (
              <div class="columns">
                {columns.map(({ category, tags }) => (
                  <section key={category} class={`card ${category}`} aria-labelledby={`${category}-title`}>
                    <h3 id={`${category}-title`}>{category}</h3>
                    <ul class="rows">
                      {tags.slice(0, state.SUGGESTIONS).map(({ tag, probability }) => (
                        <li key={tag}>
                          {/* relative to the most probable of its category: artists would be invisible beside general tags */}
                          <TagRow tag={tag} category={category} note={percent(probability)}
                            share={probability / Math.max(tags[0]?.probability ?? 1, Number.MIN_VALUE)} />
                        </li>
                      ))}
                    </ul>
                  </section>
                ))}
              </div>
            );
          }}
        </Panel>
      )}
    </section>
  );
}

