// The HTTP API: the types of its answers, and a function for each endpoint.

export const CATEGORIES = ["general", "artist", "copyright", "character", "meta"] as const;
export type Category = (typeof CATEGORIES)[number];

export interface Tag {
  tag: string;
  category: Category;
}
export interface Completion extends Tag {
  probability: number;
  /** The alias that matches the typed prefix, if the tag itself does not. */
  alias: string | null;
  /** What of the tag matches the typed prefix. */
  match: "prefix" | "alias" | "word" | "typo" | null;
  /** The prefix begins with a minus. */
  is_excluded: boolean;
}
export interface KnownTag extends Tag {
  weight: number;
}
export interface Completions {
  completions: Completion[];
  known: KnownTag[];
  unknown: string[];
  /** Tags that follow from the caption's, and are no completions. */
  implied: Tag[];
  notes: string[];
}
export interface FilledTag extends Tag {
  origin: "caption" | "drawn" | "implied";
}
export interface Filled {
  tags: FilledTag[];
  prompt: string;
}
export const DIALECTS = { a1111: "A1111, Forge", comfyui: "ComfyUI", novelai: "NovelAI", danbooru: "Danbooru" } as const;
export type Dialect = keyof typeof DIALECTS;
export interface Neighbour extends Tag {
  similarity: number;
}
export interface Post {
  post_id: number;
  rating: string;
  score: number;
  similarity: number;
  tags: Tag[];
  /** Which of the tags that the query asks for the post has. */
  matched: string[];
}
export interface Found {
  posts: Post[];
  /** How the query was read, where that differs from its spelling. */
  notes: string[];
}
export interface Info {
  embedding_dim: number;
  num_tags: number;
  categories: Record<Category, number>;
  ratings: string[];
  has_posts: boolean;
  has_map: boolean;
  /** What was found beside the checkpoint and does not belong to it. */
  practice?: string;
  left_out: { what: string; reason: string }[];
  reload_error: string | null;
}
/** A piece of the map: the most used tags are in the first one. */
export interface MapPiece {
  /** Of which map it is a piece. */
  map: string;
  num_pieces: number;
  num_tags: number;
  tags: string[];
  categories: number[];
  counts: number[];
  /** 0 to 65535. */
  x: number[];
  y: number[];
}
export interface CompleteQuery {
  tags: string;
  k: number;
  prefix?: string;
  per_category?: boolean;
  categories?: Category[];
  rating?: string;
  score?: number;
  implied?: "drop" | "keep";
  banned?: string[];
}
export interface FillQuery extends Omit<CompleteQuery, "k" | "prefix" | "per_category"> {
  n: number;
  seed?: number;
  dialect?: Dialect;
}

/** The server's message if it refused, or the page's own if it did not answer. */
export class ApiError extends Error {
  constructor(
    message: string,
    readonly status?: number,
  ) {
    super(message);
  }
}

async function ask<T>(path: string, init: RequestInit): Promise<T> {
  let response: Response;
  try {
    response = await fetch(`api/${path}`, init);
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError("The server does not answer. Is `booru-embed serve` still running?");
  }
  const answer: unknown = await response.json().catch(() => null);
  if (init.signal?.aborted) throw new DOMException("a newer request replaced this one", "AbortError");
  if (response.ok && answer !== null) return answer as T;
  const error = (answer as { error?: unknown } | null)?.error;
  const message = typeof error === "string" ? error : `The server answered ${response.status} to /api/${path}.`;
  throw new ApiError(message, response.status);
}

function post<T>(path: string, body: object, signal?: AbortSignal): Promise<T> {
  return ask<T>(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: signal ?? null,
  });
}

export const getInfo = (signal?: AbortSignal) => ask<Info>("info", { signal: signal ?? null });
export const getMapPiece = (piece: number, signal?: AbortSignal) =>
  ask<MapPiece>(`map/${piece}`, { signal: signal ?? null });
export const complete = (query: CompleteQuery, signal?: AbortSignal) => post<Completions>("complete", query, signal);
export const fill = (query: FillQuery, signal?: AbortSignal) => post<Filled>("fill", query, signal);
export const similar = (tag: string, k: number, signal?: AbortSignal) =>
  post<{ neighbours: Neighbour[] }>("similar", { tag, k }, signal);
export const search = (tags: string, k: number, ratings: string[] | undefined, signal?: AbortSignal) =>
  post<Found>("search", { tags, k, ratings }, signal);
