// Assembles the page.

import { render } from "preact";
import { Caption } from "./caption.tsx";
import { TagMapPanel } from "./map.tsx";
import { Posts } from "./posts.tsx";
import { announcement, info, start } from "./state.ts";
import { Suggestions } from "./suggestions.tsx";
import { startTheme, ThemeToggle } from "./theme.tsx";

function Header() {
  const facts = info.value.value;
  return (
    <header class="top">
      <h1><img src="static/icon.svg" alt="" width="28" height="28" />booru-embed</h1>
      <p class="facts">
        {facts !== null && `${facts.num_tags.toLocaleString("en")} tags in ${facts.embedding_dim} dimensions`}
      </p>
      <nav aria-label="Links"><a href="api/docs">API</a></nav>
      <ThemeToggle />
    </header>
  );
}

/** A practice run's warning, and what the server found and does not serve, so that a missing panel has a reason. */
function LeftOut() {
  const facts = info.value.value;
  const reasons = facts?.left_out.map(({ what, reason }) => `No ${what}: ${reason}`) ?? [];
  if (facts?.practice) reasons.unshift(facts.practice);
  if (facts?.reload_error != null) reasons.push(`The newer checkpoint is not served: ${facts.reload_error}`);
  if (reasons.length === 0) return null;
  return <section class="card left-out" aria-label="Left out">{reasons.map((reason) => <p key={reason}>{reason}</p>)}</section>;
}

function App() {
  return (
    <>
      <Header />
      <main>
        <LeftOut />
        <Caption />
        <Suggestions />
        <TagMapPanel />
        <Posts />
      </main>
      <p class="hidden" role="status">{announcement}</p>
    </>
  );
}

startTheme();
start();
render(<App />, document.body);
// With a keyboard one can type at once; on a touch screen the focus would open a keyboard over half the page.
if (matchMedia("(pointer: fine)").matches) document.getElementById("tags")?.focus();
