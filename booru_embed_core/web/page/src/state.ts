// The page's state: the caption (kept in the URL's hash), the user's choices, and the server's answers.

import { batch, computed, effect, signal } from "@preact/signals";
import * as api from "./api.ts";
import { CATEGORIES, type Category } from "./api.ts";
import { Latest } from "./latest.ts";

export const SUGGESTIONS = 10; // of each category
const SPARE = 3; // keeps a column full after one is added, until the next answer arrives
const POSTS = 24;
const NEIGHBOURS = 12;
const PAUSE_MS = 80; // for moving sliders and held keys

type Spelled = [name: string, category: Category | null, weight?: number];

/** The caption's tags in the order of addition. */
export const names = signal<string[]>([]);
/** The category of each name that the server was asked about; null for an unknown tag. */
export const categoryOf = signal<ReadonlyMap<string, Category | null>>(new Map());
/** The weight of each tag that has another one than 1. */
export const weightOf = signal<ReadonlyMap<string, number>>(new Map());
/** Tags that neither suggestions nor posts may have. */
export const excluded = signal<string[]>([]);
/** How the text that was added last was read, where that differs from its spelling. */
export const notes = signal<string[]>([]);
export const showsImplied = signal(false);
export const dialect = signal<api.Dialect>("a1111");
/** Conditions for posts, in the grammar of searches. */
export const filter = signal("");
export const rating = signal<string | null>(null);
export const score = signal<number | null>(null);
export const banned = signal<ReadonlySet<Category>>(new Set());
export const showsAllRatings = signal(false);
/** The tag whose neighbours are listed beside the map. */
export const focused = signal<string | null>(null);
/** Read out by screen readers when it changes. */
export const announcement = signal("");

export const info = new Latest<api.Info>();
/** The pieces of the map that have arrived; the first is drawn while the others load. */
export const map = new Latest<api.MapPiece[]>();
const restOfMap = new Latest<null>();
const spelling = new Latest<Spelled[]>();
export const suggestions = new Latest<api.Completions>();
/** The tags that were drawn to complete the caption. */
export const filled = new Latest<api.Filled>();
export const prompt = new Latest<string>();
export const neighbours = new Latest<api.Neighbour[]>();
export const posts = new Latest<api.Found>();

/** The categories in which the model has tags. */
export const categories = computed(() => CATEGORIES.filter((category) => info.value.value?.categories[category] !== 0));
export const allowed = computed(() => categories.value.filter((category) => !banned.value.has(category)));
export const knownNames = computed(() => names.value.filter((name) => categoryOf.value.get(name) !== null));
/** Weights are written as NovelAI writes them, since no sign of a tag needs an escape there. */
const weighted = (name: string) => {
  const weight = weightOf.value.get(name) ?? 1;
  return weight === 1 ? name : `${weight}::${name}::`;
};
export const caption = computed(() => knownNames.value.map(weighted).join(", "));
/** The caption as a search: all of its tags, none of the excluded ones, and the conditions. */
export const search = computed(() =>
  [...knownNames.value, ...excluded.value.map((name) => `-${name}`), filter.value.trim()].filter(Boolean).join(" "),
);
export const metadata = computed(() => ({
  ...(rating.value !== null && { rating: rating.value }),
  ...(rating.value !== null && score.value !== null && { score: score.value }),
}));

export function addTags(tags: Spelled[]): void {
  const added = tags.filter(([name]) => !names.value.includes(name));
  if (added.length === 0) return;
  batch(() => {
    remember(added);
    names.value = [...new Set([...names.value, ...added.map(([name]) => name)])];
    excluded.value = excluded.value.filter((name) => !names.value.includes(name));
    announcement.value = added
      .map(([name, category]) => (category === null ? `${name} is not in the vocabulary` : `Added ${name}`))
      .join(", ");
  });
  keepInUrl("push");
}

export const addTag = (name: string, category: Category) => {
  notes.value = [];
  addTags([[name, category]]);
};

function remember(tags: Spelled[]): void {
  categoryOf.value = new Map([...categoryOf.value, ...tags.map(([name, category]) => [name, category] as const)]);
  const weights = new Map(weightOf.value);
  for (const [name, , weight = 1] of tags) if (weight === 1) weights.delete(name);
    else weights.set(name, weight);
  weightOf.value = weights;
}

/** Bans a tag from suggestions and posts, and takes it out of the caption. */
export function excludeTag(name: string, category: Category): void {
  batch(() => {
    categoryOf.value = new Map([...categoryOf.value, [name, category]]);
    names.value = names.value.filter((other) => other !== name);
    excluded.value = [...new Set([...excluded.value, name])];
    announcement.value = `Excluded ${name}`;
  });
  keepInUrl("push");
}

export function removeTags(removed: string[]): void {
  names.value = names.value.filter((name) => !removed.includes(name));
  excluded.value = excluded.value.filter((name) => !removed.includes(name));
  announcement.value = `Removed ${removed.join(", ")}`;
  keepInUrl("push");
}

/** The tags in `text` as the server reads it: prompts, Danbooru's strings, weights, aliases. */
async function read(text: string, signal?: AbortSignal): Promise<[tags: Spelled[], notes: string[]]> {
  const answer = await api.complete({ tags: text, k: 1 }, signal);
  return [
    [
      ...answer.known.map(({ tag, category, weight }): Spelled => [tag, category, weight]),
      ...answer.unknown.map((name): Spelled => [name, null]),
    ],
    answer.notes,
  ];
}

/** Adds the tags of typed or pasted text, or excludes the one after a minus. Throws ApiError. */
export async function addText(text: string): Promise<void> {
  const [tags, told] = await read(text);
  const minus = text.trim();
  if (minus.startsWith("-") && tags.every(([, category]) => category === null)) {
    const [rest] = await read(minus.slice(1));
    const [first] = rest;
    if (rest.length === 1 && first !== undefined && first[1] !== null) return excludeTag(first[0], first[1]);
  }
  notes.value = told;
  addTags(tags);
}

let seed = 0; // each click draws other tags

/** Completes the caption by `n` drawn tags. */
export async function fill(n: number): Promise<void> {
  const query = { tags: caption.value, n, seed: seed++, categories: allowed.value, banned: excluded.value };
  filled.clear();
  await filled.run((signal) => api.fill({ ...query, ...metadata.value }, signal));
  const drawn = filled.value.value?.tags.filter(({ origin }) => origin === "drawn") ?? [];
  addTags(drawn.map(({ tag, category }): Spelled => [tag, category]));
}

export function toggleCategory(category: Category): void {
  const next = new Set(banned.value);
  if (!next.delete(category)) next.add(category);
  banned.value = next;
  keepInUrl("replace");
}

export function setRating(value: string | null): void {
  batch(() => {
    rating.value = value;
    if (value === null) score.value = null;
  });
  keepInUrl("replace");
}

export function setScore(value: number | null): void {
  score.value = value;
  keepInUrl("replace");
}

/** The browser's back button undoes adding and removing tags; other choices do not fill its history. */
function keepInUrl(how: "push" | "replace"): void {
  const fields = new URLSearchParams();
  if (names.value.length > 0) fields.set("tags", names.value.join(","));
  const weights = names.value.map((name) => weightOf.value.get(name) ?? 1);
  if (weights.some((weight) => weight !== 1)) fields.set("weights", weights.join(","));
  if (excluded.value.length > 0) fields.set("not", excluded.value.join(","));
  if (rating.value !== null) fields.set("rating", rating.value);
  if (score.value !== null) fields.set("score", String(score.value));
  if (banned.value.size > 0) fields.set("without", [...banned.value].join(","));
  history[`${how}State`](null, "", `#${fields.toString().replaceAll("%2C", ",")}`);
}

function readUrl(): void {
  const hash = location.hash;
  const fields = new URLSearchParams(hash.slice(1));
  const list = (field: string) => (fields.get(field) ?? "").split(",").filter((name) => name !== "");
  const written = list("tags");
  const weights = list("weights").map(Number);
  const points = Number.parseInt(fields.get("score") ?? "", 10);
  batch(() => {
    names.value = [...new Set(written)];
    weightOf.value = new Map(written.flatMap((name, i) => ((weights[i] ?? 1) > 0 ? [[name, weights[i] ?? 1]] : [])));
    excluded.value = [...new Set(list("not"))];
    rating.value = fields.get("rating");
    score.value = rating.value === null || Number.isNaN(points) ? null : points;
    banned.value = new Set(CATEGORIES.filter((category) => fields.get("without")?.split(",").includes(category)));
  });
  if (written.every((name) => categoryOf.value.has(name))) return;
  // A hand-written link may have aliases and unknown tags.
  void spelling.run(async (signal) => {
    const [tags] = await read(`${written.map(weighted).join(", ")},`, signal);
    if (location.hash !== hash) return tags;
    batch(() => {
      remember(tags);
      names.value = [...new Set(tags.map(([name]) => name))];
    });
    return tags;
  });
}

export function retrySuggestions(): void {
  if (spelling.error.value !== null) readUrl();
  askSuggestions();
}

export function askSuggestions(): void {
  const query = {
    tags: caption.value,
    k: SUGGESTIONS + SPARE,
    per_category: true,
    implied: showsImplied.value ? ("keep" as const) : ("drop" as const),
    banned: excluded.value,
    ...metadata.value,
  };
  const chosen = allowed.value;
  if (chosen.length === 0) suggestions.clear();
  else
    void suggestions.run(async (signal) => {
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      signal.throwIfAborted();
      return api.complete({ ...query, categories: chosen }, signal);
    });
}

export function askPrompt(): void {
  // With unknown tags too: other programs know words that the vocabulary lacks.
  const query = { tags: names.value.map(weighted).join(", "), n: 0, dialect: dialect.value };
  if (query.tags === "") prompt.clear();
  else void prompt.run(async (signal) => (await api.fill(query, signal)).prompt);
}

export function askPosts(): void {
  const tags = search.value;
  const ratings = showsAllRatings.value ? undefined : ["g"];
  if (tags === "" || !info.value.value?.has_posts) posts.clear();
  else
    void posts.run(async (signal) => {
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      signal.throwIfAborted();
      return api.search(tags, POSTS, ratings, signal);
    });
}

export function askNeighbours(): void {
  const tag = focused.value;
  if (tag === null) neighbours.clear();
  else void neighbours.run(async (signal) => (await api.similar(tag, NEIGHBOURS, signal)).neighbours);
}

export function askInfo(): void {
  void info.run(api.getInfo);
}

export function askMap(): void {
  if (info.value.value?.has_map) void map.run(async (signal) => [await api.getMapPiece(0, signal)]);
}

function askRestOfMap(): void {
  const pieces = map.value.value;
  if (pieces === null || pieces.length >= pieces[0]!.num_pieces) restOfMap.clear();
  else
    void restOfMap.run(async (signal) => {
      const piece = await api.getMapPiece(pieces.length, signal);
      signal.throwIfAborted();
      if (piece.map === pieces[0]!.map) map.value.value = [...pieces, piece];
      else askMap(); // the server has loaded another model in between
      return null;
    });
}

export function start(): void {
  addEventListener("popstate", readUrl);
  readUrl();
  askInfo();
  effect(askSuggestions);
  effect(askPrompt);
  effect(askPosts);
  effect(askNeighbours);
  effect(askMap);
  effect(askRestOfMap);
}
