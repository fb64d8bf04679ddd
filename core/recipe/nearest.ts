// The nearest known name to a misspelt one: what every refusal of an unknown key, method or parameter suggests.

/**
 * The candidate with the smallest edit distance to `name` (insertions, deletions, substitutions and swaps of
 * neighbours, letter case ignored), or undefined when even that one needs edits to more than a third of the name, at
 * least two. The first of equally near candidates wins.
 */
export function nearestName(name: string, candidates: Iterable<string>): string | undefined {
  const typed = name.slice(0, NAME_LENGTH_MAX).toLowerCase();
  let best: string | undefined;
  let bestDistance = Math.max(2, Math.floor(typed.length / 3)) + 1;
  for (const candidate of candidates) {
    const distance = editDistance(typed, candidate.toLowerCase());
    if (distance >= bestDistance) continue;
    best = candidate;
    bestDistance = distance;
  }
  return best;
}

/** What to do about a name that is not known, where a known one is near. */
export function didYouMean(nearest: string | undefined): string | undefined {
  return nearest && `did you mean \`${nearest}\`?`;
}

/** Characters of a name that are compared; a longer one is not a misspelling of ours. */
const NAME_LENGTH_MAX = 80;

/** Optimal string alignment distance. */
function editDistance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, column) => column);
  for (let row = 1; row <= a.length; row++) {
    const current = [row];
    for (let column = 1; column <= b.length; column++) {
      const same = a[row - 1] === b[column - 1];
      const swapped = row > 1 && column > 1 && a[row - 1] === b[column - 2] && a[row - 2] === b[column - 1];
      const edits = [
        (last[column] ?? 0) + 1,
        (current[column - 1] ?? 0) + 1,
        (last[column - 1] ?? 0) + (same ? 0 : 1),
        swapped ? (beforeLast[column - 2] ?? 0) + 1 : Number.POSITIVE_INFINITY,
      ];
      current.push(Math.min(...edits));
    }
    beforeLast = last;
    last = current;
  }
  return last[b.length] ?? 0;
}
