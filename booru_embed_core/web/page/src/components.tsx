// Components that several panels share.

import type { ComponentChildren } from "preact";
import type { Category } from "./api.ts";
import type { Latest } from "./latest.ts";
import { addTag, names } from "./state.ts";

/** A share in per cent with few digits: 42 %, 3.1 %, 0.42 %, 0.031 %. */
export function percent(share: number): string {
  const value = share * 100;
  if (value < 0.001) return "< 0.001 %";
  return `${value.toFixed(value >= 10 ? 0 : value >= 1 ? 1 : value >= 0.1 ? 2 : 3)} %`;
}

/** A row that adds its tag on click; its bar covers `share` of the row. */
export function TagRow(props: { tag: string; category: Category; share: number; note: string }) {
  const { tag, category, share, note } = props;
  const isThere = names.value.includes(tag);
  return (
    <button type="button" class={`row ${category}`} disabled={isThere} onClick={() => addTag(tag, category)}
      title={isThere ? `${tag} is in the caption` : `Add ${tag}`}>
      <span class="bar" style={{ width: `${Math.max(0, Math.min(1, share)) * 100}%` }} />
      <span class="name">{tag.replaceAll("_", "_\u200b")}</span>
      <span class="note">{note}</span>
    </button>
  );
}

/** The value of `of`, its error, or a skeleton while it loads. */
export function Panel<T>(props: {
  of: Latest<T>;
  retry: () => void;
  rows: number;
  children: (value: T) => ComponentChildren;
}) {
  const { of, retry, rows, children } = props;
  if (of.error.value !== null)
    return (
      <div class="state problem" role="alert">
        <p>{of.error.value}</p>
        <button type="button" onClick={retry}>Try again</button>
      </div>
    );
  if (of.value.value !== null) return <div class="loaded" aria-busy={of.isLoading.value}>{children(of.value.value)}</div>;
  return (
    <div class="skeleton" role="status" aria-label="Loading">
      {Array.from({ length: rows }, (_, row) => <span key={row} />)}
    </div>
  );
}
