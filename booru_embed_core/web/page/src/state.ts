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

type Spelled = [name: string, category: Category | null];

/** The caption's tags in the order of addition. */
export const names = signal<string[]>([]);
/** The category of each name that the server was asked about; null for an unknown tag. */
export const categoryOf = signal<ReadonlyMap<string, Category | null>>(new Map());
export const rating = signal<string | null>(null);
export const score = signal<number | null>(null);
export const banned = signal<ReadonlySet<Category>>(new Set());
export const showsAllRatings = signal(false);
/** The tag whose neighbours are listed beside the map. */
export const focused = signal<string | null>(null);
/** Read out by screen readers when it changes. */
export const announcement = signal("");

export const info = new Latest<api.Info>();
export const map = new Latest<api.TagMap>();
const spelling = new Latest<Spelled[]>();
export const suggestions = new Latest<api.Completion[]>();
export const neighbours = new Latest<api.Neighbour[]>();
export const posts = new Latest<api.Post[]>();

/** The categories in which the model has tags. */
export const categories = computed(() => CATEGORIES.filter((category) => info.value.value?.categories[category] !== 0));
export const allowed = computed(() => categories.value.filter((category) => !banned.value.has(category)));
export const knownNames = computed(() => names.value.filter((name) => categoryOf.value.get(name) !== null));
export const caption = computed(() => knownNames.value.join(", "));
export const metadata = computed(() => ({
  ...(rating.value !== null && { rating: rating.value }),
  ...(rating.value !== null && score.value !== null && { score: score.value }),
}));

export function addTags(tags: Spelled[]): void {
  const added = tags.filter(([name]) => !names.value.includes(name));
  if (added.length === 0) return;
  batch(() => {
    categoryOf.value = new Map([...categoryOf.value, ...added]);
    names.value = [...new Set([...names.value, ...added.map(([name]) => name)])];
    announcement.value = added
      .map(([name, category]) => (category === null ? `${name} is not in the vocabulary` : `Added ${name}`))
      .join(", ");
  });
  keepInUrl("push");
}

export const addTag = (name: string, category: Category) => addTags([[name, category]]);

export function removeTags(removed: string[]): void {
  names.value = names.value.filter((name) => !removed.includes(name));
  announcement.value = `Removed ${removed.join(", ")}`;
  keepInUrl("push");
}

/** The tags in `text` as the server reads it: prompts, Danbooru's strings, weights, aliases. */
async function read(text: string, signal?: AbortSignal): Promise<Spelled[]> {
  const { known, unknown } = await api.complete({ tags: text, k: 1 }, signal);
  return [
    ...known.map(({ tag, category }): Spelled => [tag, category]),
    ...unknown.map((name): Spelled => [name, null]),
  ];
}

/** Adds the tags of typed or pasted text. Throws ApiError. */
export async function addText(text: string): Promise<void> {
  addTags(await read(text));
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
  if (rating.value !== null) fields.set("rating", rating.value);
  if (score.value !== null) fields.set("score", String(score.value));
  if (banned.value.size > 0) fields.set("without", [...banned.value].join(","));
  history[`${how}State`](null, "", `#${fields.toString().replaceAll("%2C", ",")}`);
}

function readUrl(): void {
  const hash = location.hash;
  const fields = new URLSearchParams(hash.slice(1));
  const written = (fields.get("tags") ?? "").split(",").filter((name) => name !== "");
  const points = Number.parseInt(fields.get("score") ?? "", 10);
  batch(() => {
    names.value = [...new Set(written)];
    rating.value = fields.get("rating");
    score.value = rating.value === null || Number.isNaN(points) ? null : points;
    banned.value = new Set(CATEGORIES.filter((category) => fields.get("without")?.split(",").includes(category)));
  });
  if (written.every((name) => categoryOf.value.has(name))) return;
  // A hand-written link may have aliases and unknown tags.
  void spelling.run(async (signal) => {
    const tags = await read(written.join(", "), signal);
    if (location.hash !== hash) return tags;
    batch(() => {
      categoryOf.value = new Map([...categoryOf.value, ...tags]);
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
  const query = { tags: caption.value, k: SUGGESTIONS + SPARE, per_category: true, ...metadata.value };
  const chosen = allowed.value;
  if (chosen.length === 0) suggestions.clear();
  else
    void suggestions.run(async (signal) => {
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      signal.throwIfAborted();
      return (await api.complete({ ...query, categories: chosen }, signal)).completions;
    });
}

export function askPosts(): void {
  const tags = caption.value;
  const ratings = showsAllRatings.value ? undefined : ["g"];
  if (tags === "" || !info.value.value?.has_posts) posts.clear();
  else
    void posts.run(async (signal) => {
      await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      signal.throwIfAborted();
      return (await api.search(tags, POSTS, ratings, signal)).posts;
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
  if (info.value.value?.has_map) void map.run(api.getMap);
}

export function start(): void {
  addEventListener("popstate", readUrl);
  readUrl();
  askInfo();
  effect(askSuggestions);
  effect(askPosts);
  effect(askNeighbours);
  effect(askMap);
}
