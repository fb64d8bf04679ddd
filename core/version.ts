/**
 * Version of the engine. It is part of every content key: raise it when the bytes of any output may change, so that
 * nothing computed by an older engine is taken from the cache.
 */
export const ENGINE_VERSION = "0.1.0";
