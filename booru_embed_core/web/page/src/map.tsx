// The map of all tags, the field that finds a tag on it, and the card of the tag under the pointer.

import { effect, useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import * as api from "./api.ts";
import { CATEGORIES, type MapPiece, type Neighbour } from "./api.ts";
import { Combobox, type Option } from "./combobox.tsx";
import { type Colours, MapView } from "./map_view.ts";
import { Neighbours } from "./neighbours.tsx";
import { Panel } from "./components.tsx";
import * as state from "./state.ts";
import { shownTheme } from "./theme.tsx";

const MATCHES = 8;
const NEAR = 8;
const HOVER_MS = 90; // a pointer that only passes sends no request
const PAN = 60;
const HELP = "Arrow keys move the map, plus and minus zoom, 0 shows the whole map.";

interface Hovered {
  tag: string;
  near: Neighbour[] | null;
}

function coloursIn(box: HTMLElement): Colours {
  // Read from elements: a custom property would return the text of light-dark() instead of the theme's colour.
  const colourOf = (name: string) => getComputedStyle(box.querySelector(`.legend .${name}`) ?? box).color;
  const { color: ink, backgroundColor: paper } = getComputedStyle(box);
  return { categories: CATEGORIES.map(colourOf), ink, paper };
}

function useView(pieces: MapPiece[]) {
  const box = useRef<HTMLDivElement>(null);
  const view = useSignal<MapView | null>(null);
  const hovered = useSignal<Hovered | null>(null);

  useEffect(() => {
    const known = new Map<string, Neighbour[]>();
    let timer = 0;
    const show = (tag: string, near: Neighbour[]) => {
      if (hovered.value?.tag !== tag) return;
      hovered.value = { tag, near };
      view.value?.setNear(near.map((one) => one.tag));
    };
    const ask = async (tag: string) => {
      try {
        const near = (await api.similar(tag, NEAR)).neighbours;
        known.set(tag, near);
        show(tag, near);
      } catch (error) {
        if (!(error instanceof api.ApiError)) throw error; // the panels report a missing server
      }
    };
    const onHover = (tag: string | null) => {
      clearTimeout(timer);
      hovered.value = tag === null ? null : { tag, near: null };
      if (tag === null) return;
      const near = known.get(tag);
      if (near === undefined) timer = window.setTimeout(ask, HOVER_MS, tag);
      else show(tag, near);
    };
    const onClick = (tag: string, category: api.Category) => {
      state.addTag(tag, category);
      state.focused.value = tag;
    };
    const element = box.current!;
    const canvases = [...element.querySelectorAll("canvas")] as [HTMLCanvasElement, HTMLCanvasElement];
    const created = new MapView(element, canvases, pieces, { onHover, onClick });
    view.value = created;
    const stops = [
      effect(() => {
        void shownTheme.value;
        created.paint(coloursIn(element), state.banned.value);
      }),
      effect(() => created.setMarked([...state.names.value, ...(state.focused.value === null ? [] : [state.focused.value])])),
    ];
    return () => {
      stops.forEach((stop) => stop());
      created.close();
    };
  }, [pieces[0]]);
  useEffect(() => view.value?.add(pieces), [pieces]);
  return { box, view, hovered };
}

function findIn(view: MapView | null, text: string): Option[] {
  const asked = text.trim().toLowerCase().replace(/\s+/g, "_");
  const starting: number[] = [];
  const containing: number[] = [];
  view?.names.forEach((name, index) => {
    const position = name.indexOf(asked);
    if (position === 0) starting.push(index);
    else if (position > 0 && containing.length < MATCHES) containing.push(index);
  });
  return [...starting, ...containing].slice(0, MATCHES).map((index) => ({
    tag: view!.names[index]!,
    category: view!.categoryOf(index),
    note: view!.counts[index]!.toLocaleString("en"),
  }));
}

function Hovering({ hovered, view }: { hovered: Hovered; view: MapView }) {
  const index = view.indexOf(hovered.tag)!;
  return (
    <div class="hovering" aria-hidden="true">
      <p class={`name ${view.categoryOf(index)}`}>{hovered.tag}</p>
      <p class="note">{view.categoryOf(index)}, on {view.counts[index]!.toLocaleString("en")} posts</p>
      <ol>
        {hovered.near?.map(({ tag, category, similarity }) => (
          <li key={tag}>
            <span class={`name ${category}`}>{tag}</span>
            <span class="note">{similarity.toFixed(2)}</span>
          </li>
        ))}
      </ol>
    </div>
  );
}

function Chart({ pieces }: { pieces: MapPiece[] }) {
  const { box, view, hovered } = useView(pieces);
  const find = async (text: string) => findIn(view.value, text);
  const pick = ({ tag }: Option) => {
    state.focused.value = tag;
    view.value?.flyTo(tag);
  };
  const keys: Record<string, () => void> = {
    ArrowLeft: () => view.value?.panBy(PAN, 0),
    ArrowRight: () => view.value?.panBy(-PAN, 0),
    ArrowUp: () => view.value?.panBy(0, PAN),
    ArrowDown: () => view.value?.panBy(0, -PAN),
    "+": () => view.value?.zoomBy(1.5),
    "-": () => view.value?.zoomBy(1 / 1.5),
    "0": () => view.value?.reset(),
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const act = event.ctrlKey || event.metaKey ? undefined : keys[event.key];
    if (act === undefined) return;
    event.preventDefault();
    act();
  };
  return (
    <div class="chart card">
      <Combobox id="find" label="Find a tag on the map" placeholder="Find a tag" find={find} onPick={pick} />
      <div class="map" ref={box} tabIndex={0} role="application" aria-label={`Map of ${pieces[0]!.num_tags} tags. ${HELP}`}
        onKeyDown={onKeyDown}>
        <canvas class="points" />
        <canvas />
        <ul class="legend" aria-label="Colours">
          {state.categories.value.map((category) => <li key={category} class={category}>{category}</li>)}
        </ul>
        {hovered.value !== null && view.value !== null && <Hovering hovered={hovered.value} view={view.value} />}
      </div>
      <div class="zooms">
        <button type="button" aria-label="Zoom in" onClick={keys["+"]}>+</button>
        <button type="button" aria-label="Zoom out" onClick={keys["-"]}>−</button>
        <button type="button" aria-label="Show the whole map" onClick={keys["0"]}>⤢</button>
      </div>
    </div>
  );
}

export function TagMapPanel() {
  const hasMap = state.info.value.value?.has_map ?? true;
  return (
    <section aria-labelledby="map-title">
      <header class="title">
        <h2 id="map-title">Map of tags</h2>
        <p>Tags with similar use lie together. Hover to see similar tags, click to add one.</p>
      </header>
      <div class="map-and-near">
        {state.info.error.value !== null ? (
          <Panel of={state.info} retry={state.askInfo} rows={0}>{() => null}</Panel>
        ) : hasMap ? (
          <Panel of={state.map} retry={state.askMap} rows={12}>{(pieces) => <Chart pieces={pieces} />}</Panel>
        ) : (
          <p class="state card">This model has no map.</p>
        )}
        <Neighbours />
      </div>
    </section>
  );
}
