// Test content that any process can make again.

/** Bytes that differ at every place and between seeds. */
export function patterned(bytes: number, seed = 1): Uint8Array {
  const words = new Uint32Array(Math.ceil(bytes / 4));
  for (let index = 0; index < words.length; index++) words[index] = Math.imul(index + seed, 2654435761);
  return new Uint8Array(words.buffer, 0, bytes);
}
