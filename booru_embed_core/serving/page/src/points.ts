// Points by WebGL 2: one buffer, one call a frame, however many there are.
// Own shaders and not regl or what is built on it: regl compiles its commands by `new Function`, which the page's
// Content-Security-Policy refuses.

const VERTEX = `#version 300 es
layout(location = 0) in vec2 place;
layout(location = 1) in vec2 kind;  // weight from 0 to 1, category
uniform vec2 scale, offset;
uniform float size;
uniform vec4 palette[5];
out vec4 colour;
out float radius;
void main() {
  gl_Position = vec4(place * scale + offset, 0.0, 1.0);
  radius = size * (0.35 + kind.x * kind.x);
  gl_PointSize = 2.0 * radius + 2.0;
  colour = palette[int(kind.y)];
  if (colour.a == 0.0) gl_Position = vec4(2.0, 2.0, 2.0, 1.0);
}`;

const FRAGMENT = `#version 300 es
precision mediump float;
in vec4 colour;
in float radius;
out vec4 pixel;
void main() {
  float distance = length(gl_PointCoord - 0.5) * (2.0 * radius + 2.0);
  float cover = clamp(radius + 0.5 - distance, 0.0, 1.0) * colour.a;
  pixel = vec4(colour.rgb * cover, cover);
}`;

export type Colour = [red: number, green: number, blue: number, alpha: number];

/** Where a point of the unit square lands: pixels = scale · place + offset, from the upper left corner. */
export interface Placement {
  scale: number;
  x: number;
  y: number;
}

export class Points {
  readonly #gl: WebGL2RenderingContext;
  readonly #program: WebGLProgram;
  readonly #count: number;

  /** `points` holds x, y, weight and category of each, the last drawn on top. Raises Error where there is no WebGL 2. */
  constructor(canvas: HTMLCanvasElement, points: Float32Array) {
    const gl = canvas.getContext("webgl2", { antialias: false, premultipliedAlpha: true });
    if (gl === null) throw new Error("The map needs WebGL 2, which this browser does not offer.");
    this.#gl = gl;
    this.#count = points.length / 4;
    this.#program = this.#link();
    gl.useProgram(this.#program);
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, points, gl.STATIC_DRAW);
    for (const [location, start] of [[0, 0], [1, 8]] as const) {
      gl.enableVertexAttribArray(location);
      gl.vertexAttribPointer(location, 2, gl.FLOAT, false, 16, start);
    }
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  #link(): WebGLProgram {
    const gl = this.#gl;
    const program = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]] as const) {
      const shader = gl.createShader(type);
      if (shader === null) throw new Error("The browser took the map's graphics away; load the page again.");
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    return program;
  }

  setPalette(colours: Colour[]): void {
    this.#gl.uniform4fv(this.#uniform("palette"), colours.flat());
  }

  #uniform(name: string): WebGLUniformLocation | null {
    return this.#gl.getUniformLocation(this.#program, name);
  }

  /** Draws all points, in radii of at most 1.35 · `size` CSS pixels. */
  draw({ scale, x, y }: Placement, size: number): void {
    const gl = this.#gl;
    const { width, height } = gl.canvas;
    const ratio = width / (gl.canvas as HTMLCanvasElement).clientWidth;
    gl.viewport(0, 0, width, height);
    gl.uniform2f(this.#uniform("scale"), (2 * scale * ratio) / width, (-2 * scale * ratio) / height);
    gl.uniform2f(this.#uniform("offset"), (2 * x * ratio) / width - 1, 1 - (2 * y * ratio) / height);
    gl.uniform1f(this.#uniform("size"), size * ratio);
    gl.clear(gl.COLOR_BUFFER_BIT);
    gl.drawArrays(gl.POINTS, 0, this.#count);
  }
}
