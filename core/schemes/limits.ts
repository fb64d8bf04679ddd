// Where codes end, as core/schemes declare it: the values of the first and the last code, and half a step beyond.

/** Rounding of a scale to float32 moves the last code's reach by less: such values lie at the limit, not beyond it. */
const ROUNDING = 1 + 2 ** -20;

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
  const [least, most] = [Math.min(first, last) - reach, Math.max(first, last) + reach];
  low[at] = least * (least < 0 ? ROUNDING : 2 - ROUNDING);
  high[at] = most * (most > 0 ? ROUNDING : 2 - ROUNDING);
}
