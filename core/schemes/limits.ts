// Where codes end, as core/schemes declare it: the values of the first and the last code, and half a step beyond.

/** Limits of run `at`: its codes stand for values from `first` to `last`, in either order; `margin` is half a step. */
export function setLimits(
  low: Float32Array,
  high: Float32Array,
  at: number,
  first: number,
  last: number,
  margin: number,
): void {
  const reach = Math.abs(margin);
  low[at] = Math.min(first, last) - reach;
  high[at] = Math.max(first, last) + reach;
}
