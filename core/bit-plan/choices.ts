// What a bit plan chooses from: for every group of tensors the schemes it may have, each with its bytes and its loss.
// Additivity is the assumption of all such plans: the loss of a model is the sum of its groups' losses.
// Source: AdaQuant, arXiv:2006.10518, section 3.3; ZeroQ, arXiv:2001.00281, section 3.

/** One way to store a group of tensors. */
export type Choice = { readonly scheme: string; readonly bytes: number; readonly loss: number };

/** Tensors that must have one scheme: one tensor, or those that a server fuses into one matrix. */
export type ChoiceGroup = { readonly tensors: readonly string[]; readonly choices: readonly Choice[] };

/**
 * Choices worth making, by bytes upwards and loss downwards: what is larger and not better is left out. Equal choices
 * count once, the first of them.
 */
export function undominated(choices: readonly Choice[]): readonly Choice[] {
  const sorted = [...choices].sort((a, b) => a.bytes - b.bytes || a.loss - b.loss);
  const kept: Choice[] = [];
  for (const choice of sorted) {
    if (choice.loss < (kept.at(-1)?.loss ?? Number.POSITIVE_INFINITY)) kept.push(choice);
  }
  return kept;
}

/** Loss that one more byte saves between two choices. */
export function priceBetween(smaller: Choice, larger: Choice): number {
  return (smaller.loss - larger.loss) / (larger.bytes - smaller.bytes);
}

/** The choices on the lower convex hull of loss over bytes: each next byte saves less than the one before. */
export function convexHull(choices: readonly Choice[]): readonly Choice[] {
  const hull: Choice[] = [];
  for (const choice of undominated(choices)) {
    for (let last = hull.at(-1), before = hull.at(-2); last !== undefined && before !== undefined; ) {
      if (priceBetween(before, last) > priceBetween(last, choice)) break;
      hull.pop();
      [last, before] = [hull.at(-1), hull.at(-2)];
    }
    hull.push(choice);
  }
  return hull;
}
