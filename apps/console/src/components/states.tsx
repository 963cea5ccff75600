import { useQueryClient } from '@tanstack/react-query';
import { CircleAlert } from 'lucide-react';
import type { ReactNode } from 'react';

/** What stands where there is nothing yet, and how to get something there. */
export function Empty({ title, children }: { title: string; children?: ReactNode }) {
  return (
    <div className="empty">
      <p className="empty-title">{title}</p>
      {children && <div className="empty-text">{children}</div>}
    </div>
  );
}

/** What went wrong, and another try. */
export function Failure({ error }: { error: Error }) {
  const client = useQueryClient();
  return (
    <div className="failure" role="alert">
      <CircleAlert size={16} aria-hidden />
      <p>{error.message}</p>
      <button type="button" onClick={() => void client.invalidateQueries()}>
        Try again
      </button>
    </div>
  );
}

/** Room of the size that the content will take. */
export function Waiting({ height }: { height: number }) {
  return <div className="waiting" style={{ height }} aria-hidden />;
}
