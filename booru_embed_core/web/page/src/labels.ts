// The layer over the map's points: names that do not overlap, rings, and lines to neighbours.

import type { Placement } from "./points.ts";

const FONT = "500 12px system-ui, sans-serif";
const HEIGHT = 18;
const PIXELS_PER_LABEL = 14_000;
const MAX_TRIED = 400; // the most frequent tags in view; trying all would cost more than drawing all points
const HALO = 3; // CSS pixels of background around a name
const MAX_PICTURES = 2000;

export interface Scene {
  placement: Placement;
  /** Coordinates of each tag in the unit square, most frequent first. */
  x: Float32Array;
  y: Float32Array;
  names: string[];
  colours: string[];
  categories: Uint8Array;
  isShown: (index: number) => boolean;
  /** Tags with a ring. */
  marked: number[];
  hovered: number | null;
  /** Tags with a ring and a line from `hovered`. */
  near: number[];
  ink: string;
  paper: string;
}

interface Picture {
  image: OffscreenCanvas;
  /** In CSS pixels, with the halo. */
  width: number;
  height: number;
}

export class Labels {
  readonly #context: CanvasRenderingContext2D;
  /** Rendered names: rendering one costs twenty times as much as copying its picture. */
  readonly #pictures = new Map<string, Picture>();
  #paper = "";
  #ratio = 0;

  constructor(canvas: HTMLCanvasElement) {
    this.#context = canvas.getContext("2d")!;
  }

  draw(scene: Scene): void {
    const context = this.#context;
    const ratio = context.canvas.width / context.canvas.clientWidth;
    const [width, height] = [context.canvas.clientWidth, context.canvas.clientHeight];
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (scene.paper !== this.#paper || ratio !== this.#ratio || this.#pictures.size > MAX_PICTURES) this.#pictures.clear();
    [this.#paper, this.#ratio] = [scene.paper, ratio];
    const at = (index: number): [number, number] => [
      scene.placement.scale * scene.x[index]! + scene.placement.x,
      scene.placement.scale * scene.y[index]! + scene.placement.y,
    ];
    this.#marks(scene, at);
    const taken: [number, number, number, number][] = [];
    const maxLabels = Math.round((width * height) / PIXELS_PER_LABEL);
    const write = (index: number): void => {
      const [x, y] = at(index);
      if (x < 0 || y < 0 || x > width || y > height) return;
      const picture = this.#picture(scene.names[index]!, scene.colours[scene.categories[index]!]!);
      const left = x + 5 + picture.width > width ? x - 5 - picture.width : x + 5;
      const top = y - picture.height / 2;
      const whole = (pixels: number) => Math.round(pixels * ratio) / ratio; // letters between pixels blur
      const box: (typeof taken)[number] = [left, top, left + picture.width, top + picture.height];
      if (taken.some((one) => box[0] < one[2] && box[2] > one[0] && box[1] < one[3] && box[3] > one[1])) return;
      taken.push(box);
      context.drawImage(picture.image, whole(left), whole(top), picture.width, picture.height);
    };
    const chosen = [scene.hovered, ...scene.near, ...scene.marked].filter((index) => index !== null);
    chosen.forEach(write);
    for (let index = 0, tried = 0; index < scene.names.length && tried < MAX_TRIED; index++) {
      if (taken.length >= maxLabels + chosen.length) break;
      const [x, y] = at(index);
      if (x < 0 || y < 0 || x > width || y > height || !scene.isShown(index) || chosen.includes(index)) continue;
      tried++;
      write(index);
    }
  }

  #marks(scene: Scene, at: (index: number) => [number, number]): void {
    const context = this.#context;
    context.lineWidth = 1;
    context.strokeStyle = scene.ink;
    context.globalAlpha = 0.5;
    context.beginPath();
    for (const index of scene.hovered === null ? [] : scene.near) {
      context.moveTo(...at(scene.hovered!));
      context.lineTo(...at(index));
    }
    context.stroke();
    context.globalAlpha = 1;
    context.lineWidth = 2;
    for (const index of [...scene.marked, ...scene.near, ...(scene.hovered === null ? [] : [scene.hovered])]) {
      context.beginPath();
      context.arc(...at(index), 5.5, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  #picture(name: string, colour: string): Picture {
    const kept = this.#pictures.get(name);
    if (kept !== undefined) return kept;
    this.#context.font = FONT;
    const width = Math.ceil(this.#context.measureText(name).width) + 2 * HALO;
    const image = new OffscreenCanvas(Math.ceil(width * this.#ratio), Math.ceil(HEIGHT * this.#ratio));
    const context = image.getContext("2d")!;
    context.scale(this.#ratio, this.#ratio);
    context.font = FONT;
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.lineWidth = HALO;
    context.strokeStyle = this.#paper;
    context.strokeText(name, HALO, HEIGHT / 2);
    context.fillStyle = colour;
    context.fillText(name, HALO, HEIGHT / 2);
    const picture = { image, width: image.width / this.#ratio, height: image.height / this.#ratio };
    this.#pictures.set(name, picture);
    return picture;
  }
}
