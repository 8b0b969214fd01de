// A value that is requested repeatedly; only the answer to the last request counts.

import { signal } from "@preact/signals";
import { ApiError } from "./api.ts";

const LOADING_MS = 1500; // between two requests while the model loads

export class Latest<T> {
  /** The last good answer; it stays while the next one loads, so that nothing flickers. */
  readonly value = signal<T | null>(null);
  readonly error = signal<string | null>(null);
  readonly isLoading = signal(false);
  #controller: AbortController | undefined;

  async run(fetcher: (signal: AbortSignal) => Promise<T>): Promise<void> {
    this.#controller?.abort();
    const controller = new AbortController();
    this.#controller = controller;
    this.isLoading.value = true;
    try {
      const value = await fetcher(controller.signal);
      if (controller.signal.aborted) return;
      this.value.value = value;
      this.error.value = null;
    } catch (error) {
      if (controller.signal.aborted) return;
      if (!(error instanceof ApiError)) throw error;
      this.error.value = error.message;
      if (error.status === 503) setTimeout(() => controller.signal.aborted || void this.run(fetcher), LOADING_MS);
    } finally {
      if (!controller.signal.aborted) this.isLoading.value = false;
    }
  }

  clear(): void {
    this.#controller?.abort();
    this.value.value = this.error.value = null;
    this.isLoading.value = false;
  }
}
