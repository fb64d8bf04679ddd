// The order of names wherever an order reaches a file: by UTF-8 bytes, as object stores and the safetensors reference
// sort them.

/**
 * Order of two texts by their UTF-8 bytes, which is the order of their code points; `<` on strings compares UTF-16
 * units and puts U+E000..U+FFFF after all larger code points.
 */
export function compareUtf8(a: string, b: string): number {
  const length = Math.min(a.length, b.length);
  for (let index = 0; index < length; index += 1) {
    const left = a.charCodeAt(index);
    const right = b.charCodeAt(index);
    if (left === right) continue;
    const leftSurrogate = left >= 0xd800 && left < 0xe000;
    const rightSurrogate = right >= 0xd800 && right < 0xe000;
    return leftSurrogate === rightSurrogate ? left - right : leftSurrogate ? 1 : -1;
  }
  return a.length - b.length;
}

/** A copy in name order. */
export function sortByName<T extends { readonly name: string }>(items: readonly T[]): T[] {
  return [...items].sort((a, b) => compareUtf8(a.name, b.name));
}
