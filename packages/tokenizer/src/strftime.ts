const DAYS = ['Sunday', 'Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday'];
const MONTHS = [
  'January',
  'February',
  'March',
  'April',
  'May',
  'June',
  'July',
  'August',
  'September',
  'October',
  'November',
  'December',
];

/**
 * Local time in C's `strftime` notation and English, as Python's `datetime.strftime` writes it. `%-d` omits padding.
 *
 * @throws RangeError for a directive outside the list below
 */
export function strftime(date: Date, format: string): string {
  return format.replace(/%(-?)([a-zA-Z%])/g, (directive, flag: string, letter: string) => {
    const field = FIELDS[letter];
    if (!field) throw new RangeError(`strftime_now: directive ${directive} is not supported`);
    const text = field(date);
    return flag === '-' ? text.replace(/^0+(?=\d)/, '') : text;
  });
}

const pad = (value: number, width = 2) => String(value).padStart(width, '0');

const FIELDS: Record<string, (date: Date) => string> = {
  '%': () => '%',
  Y: (date) => String(date.getFullYear()),
  y: (date) => pad(date.getFullYear() % 100),
  m: (date) => pad(date.getMonth() + 1),
  B: (date) => MONTHS[date.getMonth()]!,
  b: (date) => MONTHS[date.getMonth()]!.slice(0, 3),
  d: (date) => pad(date.getDate()),
  e: (date) => String(date.getDate()).padStart(2, ' '),
  j: (date) => pad(dayOfYear(date), 3),
  A: (date) => DAYS[date.getDay()]!,
  a: (date) => DAYS[date.getDay()]!.slice(0, 3),
  w: (date) => String(date.getDay()),
  H: (date) => pad(date.getHours()),
  I: (date) => pad(date.getHours() % 12 || 12),
  p: (date) => (date.getHours() < 12 ? 'AM' : 'PM'),
  M: (date) => pad(date.getMinutes()),
  S: (date) => pad(date.getSeconds()),
};

function dayOfYear(date: Date): number {
  const midnight = Date.UTC(date.getFullYear(), date.getMonth(), date.getDate());
  return (midnight - Date.UTC(date.getFullYear(), 0, 0)) / 86_400_000;
}
