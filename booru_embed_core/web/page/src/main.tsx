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

function App() {
  return (
    <>
      <Header />
      <main>
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
