// Time as the interpreter uses it, so that tests can run days in a millisecond.

/** Longest delay that a timer of the platform holds; a longer one fires at once. */
const TIMER_MS_MAX = 2_147_483_647;

export type Clock = {
  /** Milliseconds since the epoch. */
  now(): number;
  /** Calls back once, after `ms`; the returned function cancels that. */
  after(ms: number, callback: () => void): () => void;
};

/** The machine's clock. Delays of any length are honoured, by timers in a row. */
export const systemClock: Clock = Object.freeze({
  now: () => Date.now(),
  after(ms: number, callback: () => void) {
    const dueMs = Date.now() + ms;
    let timer: NodeJS.Timeout | undefined;
    const wait = (): void => {
      const leftMs = Math.max(0, dueMs - Date.now());
      const last = leftMs <= TIMER_MS_MAX;
      timer = setTimeout(last ? callback : wait, last ? leftMs : TIMER_MS_MAX);
    };
    wait();
    return () => clearTimeout(timer);
  },
});

/** Resolves after `ms`; rejects with the signal's reason as soon as it is aborted. */
export function sleep(clock: Clock, ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal.aborted) {
      reject(signal.reason);
      return;
    }
    const onAbort = (): void => {
      cancel();
      reject(signal.reason);
    };
    const cancel = clock.after(ms, () => {
      signal.removeEventListener("abort", onAbort);
      resolve();
    });
    signal.addEventListener("abort", onAbort, { once: true });
  });
}
