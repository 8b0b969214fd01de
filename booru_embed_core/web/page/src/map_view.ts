// The map's behaviour: pan, zoom, hover, flight to a tag. It draws a frame only when something has changed.

import { select, type Selection } from "d3-selection";
import "d3-transition";
import { zoom, zoomIdentity, type ZoomBehavior, type ZoomTransform } from "d3-zoom";
import Flatbush from "flatbush";
import { CATEGORIES, type Category, type MapPiece } from "./api.ts";
import { Labels } from "./labels.ts";
import { type Colour, type Placement, Points } from "./points.ts";

const MAX_ZOOM = 80;
const FLIGHT_ZOOM = 10;
const FLIGHT_MS = 700;
const MAX_SIZE = 11; // see Points.draw
const MANY = 10_000;
const SIDE = 65535; // of the map, in the whole numbers of the server
const REACH = 12; // maximal distance of the pointer from a point, in CSS pixels

export interface Callbacks {
  onHover: (tag: string | null) => void;
  onClick: (tag: string, category: Category) => void;
}

/** The colours of a theme: of the categories in schema order, of lines, and of the background. */
export interface Colours {
  categories: string[];
  ink: string;
  paper: string;
}

/** The channels of a computed colour such as "rgb(23, 27, 36)". */
function channels(colour: string): Colour {
  const [red = 0, green = 0, blue = 0] = (colour.match(/\d+/g) ?? []).map(Number);
  return [red, green, blue];
}

export class MapView {
  readonly names: string[] = [];
  readonly counts: number[] = [];
  readonly #categories: Uint8Array;
  readonly #x: Float32Array;
  readonly #y: Float32Array;
  /** x, y, weight and category of each point from the end on: frequent tags last, on top. */
  readonly #vertices: Float32Array;
  readonly #indices = new Map<string, number>();
  #tree = new Flatbush(1);
  readonly #labels: Labels;
  readonly #zoom: ZoomBehavior<HTMLElement, unknown>;
  readonly #selection: Selection<HTMLElement, unknown, null, undefined>;
  readonly #resizes: ResizeObserver;
  readonly #points: Points;
  #transform: ZoomTransform = zoomIdentity;
  #frame = 0;
  #hovered: number | null = null;
  #near: number[] = [];
  #marked: number[] = [];
  #markedNames: string[] = [];
  #numPieces = 0;
  #banned: ReadonlySet<Category> = new Set();
  #colours: Colours = { categories: CATEGORIES.map(() => "rgb(128 128 128)"), ink: "gray", paper: "white" };

  constructor(
    readonly box: HTMLElement,
    readonly canvases: [HTMLCanvasElement, HTMLCanvasElement],
    pieces: MapPiece[],
    readonly callbacks: Callbacks,
  ) {
    const count = pieces[0]?.num_tags ?? 0;
    this.#categories = new Uint8Array(count);
    this.#x = new Float32Array(count);
    this.#y = new Float32Array(count);
    this.#vertices = new Float32Array(count * 4);
    this.#points = new Points(canvases[0]);
    this.#labels = new Labels(canvases[1]);
    this.#selection = select(box);
    this.#zoom = zoom<HTMLElement, unknown>()
      .scaleExtent([0.8, MAX_ZOOM])
      // One finger scrolls the page, two fingers move the map.
      .filter((event) => (event.touches === undefined ? !event.button : event.touches.length > 1))
      .on("zoom", ({ transform }) => {
        this.#transform = transform;
        this.redraw();
      });
    this.#selection.call(this.#zoom).on("dblclick.zoom", null);
    this.#listen();
    this.#resizes = new ResizeObserver(() => this.#resize());
    this.#resizes.observe(box);
    this.add(pieces);
  }

  /** Adds the pieces that are not on the map yet; the tags of each are less frequent than those before. */
  add(pieces: MapPiece[]): void {
    for (const piece of pieces.slice(this.#numPieces)) this.#addTags(piece);
    this.#numPieces = pieces.length;
    const count = this.names.length;
    this.#tree = new Flatbush(Math.max(1, count));
    if (count === 0) this.#tree.add(0, 0);
    for (let index = 0; index < count; index++) this.#tree.add(this.#x[index]!, this.#y[index]!);
    this.#tree.finish();
    this.#points.points = this.#vertices.subarray(this.#vertices.length - 4 * count);
    this.setMarked(this.#markedNames);
  }

  #addTags(piece: MapPiece): void {
    const maxLog = Math.log(Math.max(2, this.counts[0] ?? piece.counts[0] ?? 2));
    piece.tags.forEach((name, at) => {
      const index = this.names.length;
      const [x, y, category, count] = [piece.x[at]! / SIDE, piece.y[at]! / SIDE, piece.categories[at]!, piece.counts[at]!];
      this.names.push(name);
      this.counts.push(count);
      this.#indices.set(name, index);
      [this.#x[index], this.#y[index], this.#categories[index]] = [x, y, category];
      const weight = Math.log(Math.max(1, count)) / maxLog;
      this.#vertices.set([x, y, weight, category], this.#vertices.length - 4 * (index + 1));
    });
  }

  #listen(): void {
    this.box.addEventListener("pointermove", (event) => this.#hover(this.#at(event)));
    this.box.addEventListener("pointerleave", () => this.#hover(null));
    this.box.addEventListener("click", (event) => {
      const index = this.#at(event);
      if (index !== null) this.callbacks.onClick(this.names[index]!, this.categoryOf(index));
    });
  }

  categoryOf(index: number): Category {
    return CATEGORIES[this.#categories[index]!]!;
  }

  indexOf(name: string): number | undefined {
    return this.#indices.get(name);
  }

  #isShown = (index: number): boolean => !this.#banned.has(this.categoryOf(index));

  #placement(): Placement {
    const { clientWidth: width, clientHeight: height } = this.box;
    const { k, x, y } = this.#transform;
    const side = Math.min(width, height) * 0.94;
    return { scale: side * k, x: x + (k * (width - side)) / 2, y: y + (k * (height - side)) / 2 };
  }

  #at(event: MouseEvent): number | null {
    const { scale, x, y } = this.#placement();
    const corner = this.box.getBoundingClientRect();
    const [left, top] = [event.clientX - corner.left, event.clientY - corner.top];
    const found = this.#tree.neighbors((left - x) / scale, (top - y) / scale, 1, REACH / scale, this.#isShown);
    return this.names.length === 0 ? null : (found[0] ?? null);
  }

  #hover(index: number | null): void {
    if (index === this.#hovered) return;
    this.#hovered = index;
    this.#near = [];
    this.box.classList.toggle("pointing", index !== null);
    this.callbacks.onHover(index === null ? null : this.names[index]!);
    this.redraw();
  }

  #indicesOf(names: string[]): number[] {
    return names.map((name) => this.#indices.get(name)).filter((index) => index !== undefined);
  }

  /** Draws lines from the hovered tag to these. */
  setNear(names: string[]): void {
    this.#near = this.#indicesOf(names);
    this.redraw();
  }

  setMarked(names: string[]): void {
    this.#markedNames = names;
    this.#marked = this.#indicesOf(names);
    this.redraw();
  }

  paint(colours: Colours, banned: ReadonlySet<Category>): void {
    this.#colours = colours;
    this.#banned = banned;
    this.#points.setPalette(
      colours.categories.map((colour, index) => (banned.has(CATEGORIES[index]!) ? null : channels(colour))),
      channels(colours.paper),
    );
    this.redraw();
  }

  #travel(duration: number): Selection<HTMLElement, unknown, null, undefined> {
    const isStill = duration === 0 || matchMedia("(prefers-reduced-motion: reduce)").matches;
    // d3 gives a transition another type, but it takes the same calls.
    return isStill ? this.#selection : (this.#selection.transition().duration(duration) as never);
  }

  flyTo(name: string): void {
    const index = this.#indices.get(name);
    if (index === undefined) return;
    const { clientWidth: width, clientHeight: height } = this.box;
    const side = Math.min(width, height) * 0.94;
    const k = Math.max(this.#transform.k, FLIGHT_ZOOM);
    const x = (width - side) / 2 + this.#x[index]! * side;
    const y = (height - side) / 2 + this.#y[index]! * side;
    const target = zoomIdentity.translate(width / 2 - k * x, height / 2 - k * y).scale(k);
    this.#travel(FLIGHT_MS).call(this.#zoom.transform, target);
  }

  zoomBy(factor: number): void {
    this.#travel(150).call(this.#zoom.scaleBy, factor);
  }

  panBy(x: number, y: number): void {
    this.#selection.call(this.#zoom.translateBy, x / this.#transform.k, y / this.#transform.k);
  }

  reset(): void {
    this.#travel(FLIGHT_MS).call(this.#zoom.transform, zoomIdentity);
  }

  #resize(): void {
    const ratio = Math.min(devicePixelRatio, 2);
    for (const canvas of this.canvases) {
      canvas.width = Math.round(canvas.clientWidth * ratio);
      canvas.height = Math.round(canvas.clientHeight * ratio);
    }
    this.redraw();
  }

  /** The size of a point when the whole map is shown; fewer points are larger. */
  #size(): number {
    const room = Math.min(2, Math.max(1, (MANY / this.names.length) ** 0.25));
    return Math.sqrt(this.box.clientWidth / 250) * room;
  }

  redraw(): void {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.box.clientWidth === 0) return;
      const placement = this.#placement();
      const size = Math.min(MAX_SIZE, this.#size() * this.#transform.k ** 0.4);
      this.#points.draw(placement, size);
      this.#labels.draw({
        placement,
        x: this.#x,
        y: this.#y,
        names: this.names,
        colours: this.#colours.categories,
        categories: this.#categories,
        isShown: this.#isShown,
        marked: this.#marked,
        hovered: this.#hovered,
        near: this.#near,
        ink: this.#colours.ink,
        paper: this.#colours.paper,
      });
      this.box.dataset.drawn = String(this.names.length);
    });
  }

  close(): void {
    cancelAnimationFrame(this.#frame);
    this.#resizes.disconnect();
  }
}
