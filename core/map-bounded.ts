// Work on many items, a few at a time: requests hide each other's latency, and what they hold stays bounded. Called by
// whatever reads or writes many files.

/** Results of `work` over `items`, in their order, a bounded number at a time; rejects with the first failure. */
export async function mapBounded<Item, Result>(
  items: readonly Item[],
  work: (item: Item, index: number) => Promise<Result>,
  inFlight = 16,
): Promise<Result[]> {
  const results = new Array<Result>(items.length);
  const entries = items.entries();
  const worker = async (): Promise<void> => {
    for (const [index, item] of entries) results[index] = await work(item, index);
  };
  await Promise.all(Array.from({ length: Math.min(inFlight, items.length) }, worker));
  return results;
}
