// Reads that share memory wait for each other. Called by the readers that compute what they read.

/** The same work, each call after the one before has ended, well or not. */
export function oneAtATime<Args extends readonly unknown[]>(
  work: (...args: Args) => Promise<void>,
): (...args: Args) => Promise<void> {
  let last: Promise<void> = Promise.resolve();
  return (...args) => {
    const next = last.catch(() => undefined).then(() => work(...args));
    last = next;
    return next;
  };
}
