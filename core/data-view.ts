// Bytes as numbers of more than one byte. Called by readers of binary formats and by the schemes of quantized parts.

/** A view of the bytes, wherever they lie in their memory. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
