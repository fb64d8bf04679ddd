// Option parsers for numbers. A value that cannot be read is a usage error.
import { InvalidArgumentError } from "commander";

/** A finite number. */
export function parseNumber(text: string): number {
  const value = text.trim() === "" ? Number.NaN : Number(text);
  if (!Number.isFinite(value)) throw new InvalidArgumentError("It must be a number.");
  return value;
}

/** Numbers with commas between them. */
export function parseNumbers(text: string): readonly number[] {
  return text.split(",").map(parseNumber);
}

/** A whole number above 0. */
export function parsePositive(text: string): number {
  if (!/^[1-9]\d{0,5}$/.test(text)) throw new InvalidArgumentError("It must be a whole number above 0.");
  return Number(text);
}

/** A seed: a whole number, 0 or more. */
export function parseSeed(text: string): number {
  if (!/^\d{1,15}$/.test(text)) throw new InvalidArgumentError("It must be a whole number.");
  return Number(text);
}
