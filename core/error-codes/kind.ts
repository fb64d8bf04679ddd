// What the table of codes says of each code.

export type ErrorKind = {
  /** What happened, as a sentence without values. */
  readonly meaning: string;
  /** True when trying the same thing again may succeed (network, capacity); false for bad input. */
  readonly retryable: boolean;
  /** What the reader should do. A throw may replace it by something more exact. */
  readonly remedy: string;
};
