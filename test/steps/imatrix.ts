// Importance matrices as files, for tests.

/** The older form of llama-imatrix: mean squares over one call. */
export function imatrixOf(entries: Readonly<Record<string, ArrayLike<number>>>, calls = 1): Uint8Array {
  const names = Object.entries(entries);
  const parts = names.flatMap(([name, values]) => [
    Int32Array.of(name.length),
    new TextEncoder().encode(name),
    Int32Array.of(calls, values.length),
    Float32Array.from(values),
  ]);
  const views = [Int32Array.of(names.length), ...parts];
  return Buffer.concat(views.map((view) => Buffer.from(view.buffer, view.byteOffset, view.byteLength)));
}
