// The map's points, drawn pixel by pixel into an image.
// WebGL takes 40 ms for 30,000 points without a GPU, as on a remote desktop or in a test (1.2 µs each, at any size).
// This takes a few milliseconds on every machine (benchmarks/page.py).

const STEPS = 4; // radii are rounded to a quarter of a pixel
const PHASES = 2; // positions are rounded to half a pixel: at whole pixels, points tremble while the map zooms
const COVER = 0.78;

export type Colour = [red: number, green: number, blue: number];

/** Maps the unit square to pixels from the upper left corner: pixel = scale · coordinate + offset. */
export interface Placement {
  scale: number;
  x: number;
  y: number;
}

/** The pixels of a disc relative to its middle, and how much of each it covers, up to 256. */
interface Disc {
  dx: Int32Array;
  dy: Int32Array;
  cover: Int32Array;
}

function makeDisc(radius: number, phaseX: number, phaseY: number): Disc {
  const pixels: [number, number, number][] = [];
  const reach = Math.ceil(radius + 1);
  for (let dy = -reach; dy <= reach; dy++)
    for (let dx = -reach; dx <= reach; dx++) {
      const distance = Math.hypot(dx + 0.5 - phaseX, dy + 0.5 - phaseY);
      const cover = Math.round(256 * COVER * Math.max(0, Math.min(1, radius + 0.5 - distance)));
      if (cover > 0) pixels.push([dx, dy, cover]);
    }
  const column = (index: 0 | 1 | 2) => Int32Array.from(pixels, (pixel) => pixel[index]);
  return { dx: column(0), dy: column(1), cover: column(2) };
}

const packed = ([red, green, blue]: Colour) => (255 << 24) | (blue << 16) | (green << 8) | red; // little endian

export class Points {
  /** CSS pixels by which the canvas exceeds the box on each side, so that no disc needs clipping. */
  static readonly MARGIN = 18;

  readonly #context: CanvasRenderingContext2D;
  readonly #discs: Disc[] = [];
  #image: ImageData | null = null;
  #colours: (number | null)[] = [];
  #paper = 0;

  /** x, y, weight (0 to 1) and category of each point; later points are drawn on top. */
  points: Float32Array = new Float32Array();

  constructor(canvas: HTMLCanvasElement) {
    this.#context = canvas.getContext("2d", { alpha: false })!;
  }

  /** The colour of each category; null hides it. */
  setPalette(colours: (Colour | null)[], paper: Colour): void {
    this.#colours = colours.map((colour) => colour && packed(colour));
    this.#paper = packed(paper);
  }

  /** Draws all points with radii of at most 1.35 · `size` CSS pixels, which must not exceed MARGIN. */
  draw({ scale, x, y }: Placement, size: number): void {
    const { canvas } = this.#context;
    const ratio = canvas.width / canvas.clientWidth;
    if (this.#image?.width !== canvas.width || this.#image.height !== canvas.height)
      this.#image = this.#context.createImageData(canvas.width, canvas.height);
    const pixels = new Int32Array(this.#image.data.buffer);
    pixels.fill(this.#paper);
    const { points } = this;
    const zoom = scale * ratio;
    const edge = Points.MARGIN * ratio;
    const left = (x + Points.MARGIN) * ratio;
    const top = (y + Points.MARGIN) * ratio;
    const right = canvas.width - edge;
    const bottom = canvas.height - edge;
    for (let at = 0; at < points.length; at += 4) {
      const px = points[at]! * zoom + left;
      const py = points[at + 1]! * zoom + top;
      const colour = this.#colours[points[at + 3]!];
      if (px < edge || py < edge || px >= right || py >= bottom || colour == null) continue;
      const weight = points[at + 2]!;
      stamp(pixels, canvas.width, px, py, this.#disc(size * ratio * (0.35 + weight * weight), px, py), colour);
    }
    this.#context.putImageData(this.#image, 0, 0);
  }

  #disc(radius: number, px: number, py: number): Disc {
    const step = Math.round(radius * STEPS);
    const phaseX = Math.floor((px - Math.floor(px)) * PHASES);
    const phaseY = Math.floor((py - Math.floor(py)) * PHASES);
    const key = (step * PHASES + phaseX) * PHASES + phaseY;
    return (this.#discs[key] ??= makeDisc(step / STEPS, (phaseX + 0.5) / PHASES, (phaseY + 0.5) / PHASES));
  }
}

/** Blends `colour` into the pixels of a disc: red and blue in one multiplication, green in another. */
function stamp(pixels: Int32Array, width: number, px: number, py: number, disc: Disc, colour: number): void {
  const middle = Math.floor(py) * width + Math.floor(px);
  const { dx, dy, cover } = disc;
  const redBlue = colour & 0xff00ff;
  const green = colour & 0x00ff00;
  for (let i = 0; i < cover.length; i++) {
    const pixel = middle + dy[i]! * width + dx[i]!;
    const share = cover[i]!;
    const underRedBlue = pixels[pixel]! & 0xff00ff;
    const underGreen = pixels[pixel]! & 0x00ff00;
    pixels[pixel] =
      (255 << 24) |
      (((Math.imul(redBlue - underRedBlue, share) >>> 8) + underRedBlue) & 0xff00ff) |
      (((Math.imul(green - underGreen, share) >> 8) + underGreen) & 0x00ff00);
  }
}
