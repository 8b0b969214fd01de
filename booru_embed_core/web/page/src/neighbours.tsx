// The tags whose embeddings are nearest to that of the chosen tag.

import { Panel, TagRow } from "./components.tsx";
import * as state from "./state.ts";

export function Neighbours() {
  const tag = state.focused.value;
  return (
    <section class="card neighbours" aria-labelledby="neighbours-title">
      <h3 id="neighbours-title">{tag === null ? "Nearest tags" : <>Nearest to <strong>{tag}</strong></>}</h3>
      {tag === null ? (
        <p class="state">Choose a tag of the caption or a point on the map.</p>
      ) : (
        <Panel of={state.neighbours} retry={state.askNeighbours} rows={8}>
          {(found) => (
            <ul class="rows">
              {found.map((neighbour) => (
                <li key={neighbour.tag}>
                  <TagRow tag={neighbour.tag} category={neighbour.category} share={neighbour.similarity}
                    note={neighbour.similarity.toFixed(2)} />
                </li>
              ))}
            </ul>
          )}
        </Panel>
      )}
    </section>
  );
}
