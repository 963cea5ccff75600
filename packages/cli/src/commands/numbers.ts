/** Values of flags that are numbers of some range. */
import { InvalidArgumentError } from 'commander';

/** A parser of numbers for which `fits` holds; `range` says which these are, for the message. */
export function numberThat(fits: (value: number) => boolean, range: string): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isFinite(value) && fits(value)) return value;
    throw new InvalidArgumentError(`Give ${range}.`);
  };
}

export const positiveNumber = numberThat((value) => value > 0, 'a number above 0');
export const numberFromZero = numberThat((value) => value >= 0, 'a number of at least 0');
export const fraction = numberThat((value) => value > 0 && value <= 1, 'a number above 0 and up to 1');

/** A parser of whole numbers from 1 to `most`. */
export const wholeNumberUpTo = (most: number) =>
  numberThat(
    (value) => Number.isInteger(value) && value >= 1 && value <= most,
    `a whole number from 1 to ${most}`,
  );
