// biome-ignore-all lint/a11y/noNoninteractiveTabindex: what scrolls must be reached with the keyboard
import { type ReactNode, useEffect, useRef, useState } from 'react';

/** A table that scrolls sideways where it does not fit, with the arrow keys, too. */
export function TableFrame({ label, children }: { label: string; children: ReactNode }) {
  const frame = useRef<HTMLElement>(null);
  const [scrolls, setScrolls] = useState(false);
  useEffect(() => {
    const element = frame.current;
    if (!element) return;
    const measure = (): void => setScrolls(element.scrollWidth > element.clientWidth);
    const watch = new ResizeObserver(measure);
    watch.observe(element);
    for (const child of element.children) watch.observe(child);
    return () => watch.disconnect();
  }, []);
  return (
    <section ref={frame} className="table-frame" aria-label={label} {...(scrolls ? { tabIndex: 0 } : {})}>
      <table>{children}</table>
    </section>
  );
}
