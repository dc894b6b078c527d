/** When to start a server again that has crashed, and when not to any more. */

const FIRST_MS = 500;
const MOST = 5; // crashes
const WITHIN_MS = 180_000;

export class Backoff {
  #crashes: number[] = [];

  /** Note a crash at `now`, in milliseconds of any clock; return how long to wait, or nothing to give up. */
  crashed(now: number): number | undefined {
    this.#crashes = [...this.#crashes.filter((then) => now - then < WITHIN_MS), now];
    if (this.#crashes.length >= MOST) return undefined;
    return FIRST_MS * 2 ** (this.#crashes.length - 1);
  }

  /** How many crashes count at present. */
  get crashes(): number {
    return this.#crashes.length;
  }

  /** Forget them: a person has asked for a start. */
  reset(): void {
    this.#crashes = [];
  }
}
