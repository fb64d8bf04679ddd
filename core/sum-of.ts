/** Sum of what `measure` says of each item, in their order, from 0. */
export function sumOf<T>(items: Iterable<T>, measure: (item: T) => number): number {
  let sum = 0;
  for (const item of items) sum += measure(item);
  return sum;
}
