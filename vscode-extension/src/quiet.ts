/** Documents that the server never hears of, because they are very large. */

import type { TextDocument } from "vscode";

export const MOST_LINES = 100_000;
export const MOST_CHARACTERS = 5_000_000;

/** Remembers what was said of each document when it was opened: the server must not hear changes of what it was spared. */
export class Quiet {
  readonly #spared = new Set<string>();

  /** A document is opened; say whether the server is spared it. */
  opened(document: TextDocument): boolean {
    const large = document.lineCount > MOST_LINES || document.getText().length > MOST_CHARACTERS;
    this.#spared[large ? "add" : "delete"](document.uri.toString()); // after a restart, all are opened anew
    return large;
  }

  /** Whether the server is spared a document. */
  has(document: TextDocument): boolean {
    return this.#spared.has(document.uri.toString());
  }

  /** A document is closed; say whether the server was spared it. */
  closed(document: TextDocument): boolean {
    return this.#spared.delete(document.uri.toString());
  }
}
