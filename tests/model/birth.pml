/* birth.pml - the object at KEY: birth, adoption, replacement by ETag; then the lineage's segments.
 *
 * Replicas make the object with If-None-Match, or replace it with If-Match; a plain program writes
 * without conditions of ours (its own If-Match, a higher db-version, no metadata); any PUT's answer
 * may be lost and the PUT may land later; a process dies between any two steps. In the log layout
 * (-DLOG) the first push brings the lineage into the world and the next ones are segments in the
 * lineage's folder, one key each.
 *
 * A content tried is an id with its commits, parent, value (what SQLite's bytes would be without
 * the version number: here the number of commits modulo 2, since content does return to earlier
 * bytes) and lineage. The ETag is the MD5 of the bytes: of value and version number.
 *
 * Asserted: what replaces a version continues it; what is acknowledged is, or was, there; nobody is
 * in conflict with itself; the log of a lineage is one chain, whatever becomes of KEY. */

#ifndef IDS
#define IDS 4
#endif
#ifndef COMMITS
#define COMMITS 3
#endif
#ifndef LOST
#define LOST 2
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#define R     2
#define TRIES 2

/* contents; id 0 is "nothing" */
byte ids = 0;
byte ver[IDS + 1], par[IDS + 1], cont[IDS + 1], line[IDS + 1], own[IDS + 1];
bool meta[IDS + 1];   /* it has our metadata */
bool was[IDS + 1];    /* it has been a version */
/* the bucket; and PUTs that nobody waits for */
byte key = 0;         /* id at KEY */
bool seg[IDS + 1];    /* it is a segment, under its lineage and number */
#ifdef DELETE
bool deleted = false; /* an operator deletes KEY, once */
#define GONE_ONCE deleted
#else
#define GONE_ONCE false
#endif
bool flying[IDS + 1];
byte lost = LOST, crashes = CRASHES, commits = 0;

/* state files and database files */
byte base[R], file[R], ntry[R], tryid[R * TRIES], over[R];

#define VALUE(id) (((cont[id] & 1) + ((cont[id] >> 1) & 1) + ((cont[id] >> 2) & 1)) % 2)
#ifdef NO_counter /* the bytes do not hold the version number */
#define SAME_ETAG(a, b) (a == b || (a != 0 && b != 0 && VALUE(a) == VALUE(b)))
#else
#define SAME_ETAG(a, b) (a == b || (a != 0 && b != 0 && VALUE(a) == VALUE(b) && ver[a] == ver[b]))
#endif
#define LAST_TRY tryid[me * TRIES + ntry[me] - 1]
#define DIRTY    (file[me] != cont[base[me]])
/* the birth or adoption is an object; what follows it in the log is a segment */
#ifdef LOG
#define IN_LOG(id) (id != 0 && meta[id])
#else
#define IN_LOG(id) false
#endif

/* The segment of the lineage of `like` with that number; 0: there is none. */
inline find(like, number, found)
{
    found = 1;
    do
    :: found <= IDS && !(seg[found] && line[found] == line[like] && ver[found] == number) ->
        found++
    :: else -> break
    od;
    if
    :: found > IDS -> found = 0
    :: else
    fi
}

inline landed_well(id)
{
    was[id] = true;
    assert((cont[id] & cont[par[id]]) == cont[par[id]]) /* takes nothing back */
}

/* The server: create or replace, if the condition holds. */
inline land(id)
{
    ok = false;
    if
    :: IN_LOG(par[id]) ->
        find(id, ver[id], t);
        if
        :: t == 0 ->
            assert(was[par[id]]);
            seg[id] = true; ok = true; landed_well(id)
        :: else -> t = 0
        fi
    :: else ->
        if
#ifdef NO_condition
        :: true ->
#else
        :: SAME_ETAG(key, par[id]) ->
#endif
            assert(key == par[id]); /* what it replaces is what it started from */
            key = id; ok = true; landed_well(id)
        :: else
        fi
    fi
}

/* What a probe of this replica sees as the newest after its base. */
inline probe()
{
    if
    :: IN_LOG(base[me]) ->
        find(base[me], ver[base[me]] + 1, x);
        if
        :: x == 0 -> x = base[me]
        :: else
        fi
    :: else -> x = key
    fi
}

inline forget()
{
    ntry[me] = 0; tryid[me * TRIES] = 0; tryid[me * TRIES + 1] = 0; over[me] = 0
}

/* Does `a` continue our try `b`, or is it? By nonce and db-recent; a plain program knows neither,
 * but carries on db-recent where it copies it, and r2_remote.older keeps that. */
inline is_in(a, b)
{
    y = a;
    do
    :: y != 0 && y != b && ver[y] > ver[b] -> y = par[y]
    :: else -> break
    od;
    ok = (y == b && b != 0);
#ifdef NO_nonce /* who made it is told by the lineage */
    ok = (y != 0 && b != 0 && ver[y] == ver[b] && line[y] == line[b]);
#endif
    y = 0
}

/* r2_settle(), r2_layout_maker(): x is what a probe saw. */
inline settle()
{
    moved = false;
    if
    :: ntry[me] > 0 && !(x == base[me] || x == over[me]) ->
        is_in(x, LAST_TRY);
        if
        :: ok -> base[me] = LAST_TRY; moved = true
        :: else ->
            if
            :: ntry[me] > 1 ->
                is_in(x, tryid[me * TRIES]);
                if
                :: ok -> base[me] = tryid[me * TRIES]; moved = true
                :: else
                fi
            :: else
            fi
        fi;
        if
        :: !moved -> conflict_is_real()
        :: else
        fi;
        forget();
        ok = false
#ifdef NO_doubt
    :: ntry[me] > 0 && (x == base[me] || x == over[me]) -> forget()
#endif
    :: else
    fi
}

inline conflict_is_real()
{
    y = 1;
    do
    :: y <= ntry[me] ->
        assert(GONE_ONCE || !was[tryid[me * TRIES + y - 1]]);
        y++
    :: else -> break
    od;
    y = 0
}

inline acknowledge(id, content)
{
    assert(was[id]);
    assert((content & ~cont[id]) == 0)
}

#define MAY_DIE                                                                                    \
    if                                                                                             \
    :: true                                                                                        \
    :: atomic { crashes > 0 -> crashes--; goto idle }                                              \
    fi

proctype Replica(byte me)
{
    byte x, y, t, cur, staged;
    bool moved, ok;

idle:
    atomic {
        x = 0; y = 0; t = 0; cur = 0; staged = 0; moved = false; ok = false;
        if
        :: ntry[me] > 0 || DIRTY -> goto sync
        :: ntry[me] == 0 -> goto follow
        fi
    }

    /* ---- r2_push_if_dirty() ---- */
sync:
    if
    :: atomic { ntry[me] > 0 -> probe(); settle(); x = 0 } /* look_first() */
    :: atomic { ntry[me] == 0 -> skip }
    fi;
    atomic { /* intend() */
        staged = file[me];
        if
        :: ntry[me] > 0 && cont[LAST_TRY] == staged -> cur = LAST_TRY
        :: ntry[me] == 0 && !DIRTY -> goto idle
        :: ntry[me] == TRIES || ids == IDS -> goto idle
        :: else ->
            ids++;
            cur = ids;
            over[me] = base[me];
            ver[cur] = ver[base[me]] + 1;
            par[cur] = base[me];
            cont[cur] = staged;
            meta[cur] = true;
            own[cur] = me + 1;
            line[cur] = line[base[me]];
            if
#ifdef NO_lineage /* one lineage for all that this replica tries */
            :: line[cur] == 0 -> line[cur] = me + 1
#else
            :: line[cur] == 0 -> line[cur] = cur /* drawn anew for each content */
#endif
            :: else
            fi;
#ifndef NO_intent
            tryid[me * TRIES + ntry[me]] = cur;
            ntry[me]++
#endif
        fi
    }
    MAY_DIE;
put:
    if
    :: atomic {
        land(cur);
        if
        :: ok -> goto landed
        :: else
        fi
      }
    :: atomic { lost > 0 -> lost--; flying[cur] = true }
        MAY_DIE
    fi;
    atomic { /* look() */
        probe();
        if
        :: x == base[me] || x == over[me] ->
            if
            :: goto put
            :: goto idle /* R2_UNKNOWN */
            fi
        :: else -> is_in(x, cur)
        fi;
        if
        :: ok -> goto landed
        :: else -> settle(); goto follow
        fi
    }
landed:
    MAY_DIE;
    atomic {
        /* what stands there by now may be something that continues it */
        base[me] = cur; forget(); acknowledge(cur, staged); goto idle
    }

    /* ---- follow(): a fork keeps what was only here; then the newest is taken ---- */
follow:
    atomic {
        probe();
        if
        :: x == base[me] -> goto idle
        :: else
        fi;
        if
        :: ntry[me] > 0 -> settle(); goto idle
        :: else
        fi
    }
    atomic { /* the bytes, with If-Match; the log to its end; installed, or the file was written to */
        probe();
        do
        :: IN_LOG(x) ->
            find(x, ver[x] + 1, t);
            if
            :: t == 0 -> break
            :: else
            fi;
            assert(par[t] == x); /* a log of one lineage is one chain */
            x = t
        :: !IN_LOG(x) -> break
        od;
        t = 0;
        if
        :: x != 0 ->
            assert(was[x]);
            if
            :: DIRTY -> /* a conflict; not with our own version, which the file continues */
                y = x;
                do
                :: y != 0 && par[y] != base[me] -> y = par[y]
                :: else -> break
                od;
                assert(GONE_ONCE || y == 0 || own[y] != me + 1 || (cont[y] & ~file[me]) != 0);
                y = 0
            :: else
            fi;
            file[me] = cont[x]; base[me] = x; forget()
        :: else
        fi;
        goto idle
    }
}

/* Applications, a program that knows nothing of us, an operator, and what was sent before. */
proctype World()
{
    byte n, t;
    bool ok;
    do
    :: atomic { commits < COMMITS ->
        if
        :: n = 0
        :: n = 1
        fi;
        file[n] = file[n] | (1 << commits);
        commits++;
        n = 0
      }
#ifdef FOREIGN
    :: atomic { commits < COMMITS && ids < IDS && !IN_LOG(key) -> /* its own PUT, If-Match */
        ids++;
        ver[ids] = ver[key] + 1;
        par[ids] = key;
        cont[ids] = cont[key] | (1 << commits);
        line[ids] = 0;
        commits++;
        key = ids;
        was[ids] = true
      }
#endif
    :: atomic {
        n = 1;
        do
        :: n < IDS -> n++
        :: break
        od;
        if
        :: flying[n] ->
            flying[n] = false;
            if
            :: land(n)
            :: true
            fi
        :: else
        fi;
        n = 0; t = 0; ok = false
      }
#ifdef DELETE
    :: atomic { !deleted && key != 0 -> deleted = true; key = 0 }
#endif
    od
}

init
{
    atomic { run Replica(0); run Replica(1); run World() }
}
