// The posts that have the caption's tags. The page contacts Danbooru only when a link is clicked.

import type { Post, Tag } from "./api.ts";
import { Panel } from "./components.tsx";
import * as state from "./state.ts";

const SHOWN_TAGS = 14;
const FIRST = ["character", "copyright", "artist", "general", "meta"]; // after the caption's tags: what tells posts apart

function PostCard({ post }: { post: Post }) {
  const rank = ({ tag, category }: Tag) => (state.names.value.includes(tag) ? -1 : FIRST.indexOf(category));
  const tags = post.tags.toSorted((a, b) => rank(a) - rank(b));
  const asked = state.knownNames.value.length;
  return (
    <li class="post card">
      <p class="facts">
        {/* ids of several sites are larger than a browser's numbers are exact */}
        {Number.isSafeInteger(post.post_id) ? (
          <a href={`https://danbooru.donmai.us/posts/${post.post_id}`} target="_blank" rel="noopener noreferrer">
            #{post.post_id}<span class="away" aria-hidden="true"> ↗</span>
            <span class="hidden"> on Danbooru, in a new tab</span>
          </a>
        ) : <span title="The post is of one of several sites">post</span>}
        <span class="rating" title="rating">{post.rating}</span>
        <span title="score">▲ {post.score}</span>
        {asked > 0 && (
          <span class="matched" title={post.matched.join(", ")}>{post.matched.length} of {asked} tags</span>
        )}
        <span class="similarity" title="cosine similarity to the caption">{post.similarity.toFixed(2)}</span>
      </p>
      <p class="tags">
        {tags.slice(0, SHOWN_TAGS).map(({ tag, category }) => (
          <button key={tag} type="button" class={category} aria-pressed={state.names.value.includes(tag)}
            title={state.names.value.includes(tag) ? `Remove ${tag}` : `Add ${tag}`}
            onClick={() => (state.names.value.includes(tag) ? state.removeTags([tag]) : state.addTag(tag, category))}>
            {tag}
          </button>
        ))}
        {tags.length > SHOWN_TAGS && <span class="more">and {tags.length - SHOWN_TAGS} more</span>}
      </p>
    </li>
  );
}

function Found() {
  if (state.info.value.value !== null && !state.info.value.value.has_posts)
    return <p class="state card">This server has no posts; see <code>booru-embed serve --help</code> for how to add them.</p>;
  if (state.info.error.value !== null)
    return <Panel of={state.info} retry={state.askInfo} rows={0}>{() => null}</Panel>;
  if (state.search.value === "") return <p class="state card">Add a tag or a condition to see posts.</p>;
  return (
    <Panel of={state.posts} retry={state.askPosts} rows={4}>
      {({ posts, notes }) => <>
        {notes.length > 0 && <ul class="notes">{notes.map((note) => <li key={note}>{note}</li>)}</ul>}
        {posts.length === 0 ? (
          <p class="state card">
            No post found{!state.showsAllRatings.value && " with the rating general; the switch above shows all ratings"}.
          </p>
        ) : (
          <ul class="posts">{posts.map((post) => <PostCard key={post.post_id} post={post} />)}</ul>
        )}
      </>}
    </Panel>
  );
}

export function Posts() {
  return (
    <section aria-labelledby="posts-title">
      <header class="title">
        <h2 id="posts-title">Posts</h2>
        <p>Those with most of the caption's tags first, then by the embedding</p>
        <label class="switch">
          <input type="checkbox" role="switch" checked={state.showsAllRatings.value}
            onChange={() => (state.showsAllRatings.value = !state.showsAllRatings.value)} />
          <span>Show all ratings, not only general</span>
        </label>
      </header>
      {state.info.value.value?.has_posts && (
        <p class="filter">
          <label for="filter">Conditions</label>
          <input id="filter" type="search" value={state.filter.value} placeholder="-hat score:>10 order:score"
            spellcheck={false} autocomplete="off" onInput={(event) => (state.filter.value = event.currentTarget.value)} />
        </p>
      )}
      <Found />
    </section>
  );
}
