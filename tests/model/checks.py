"""checks - what scripts/model searches: each model whole, and once without each of its rules."""

# (rule, what it says, further defines): a violation is found without it, with -DNO_rule
PUSH = (
    ("intent", "the intent is durable before the PUT", ()),
    ("same_number", "a doubt is never left by going on under the next number", ()),
    ("doubt", "a 404 does not end a doubt", ()),
    ("nonce", "equal contents of two writers have nonces of their own", ()),
    ("look", "a 412 may be our own: the key is looked at", ()),
    ("ours", "what stands at the key can be ours", ()),
    ("other", "what stands at the key can be another's", ()),
    ("earlier", "every nonce tried for a number is kept", ()),
    ("hold", "a version is the base only when the file holds it", ()),
    ("again", "after an own version was found the probe goes on", ()),
)
COMMIT = (
    ("doubt", "a 404 does not end a doubt", ()),
    ("other", "what stands at the key can be another's", ()),
    ("look", "a 412 may be our own: the key is looked at", ()),
    ("hold", "the version is the base only after SQLite's commit point", ()),
    ("judge", "whether the file holds what a COMMIT sent is asked first", ()),
)
SLOW = ("SLOW", "T=3", "V=2")
COLLECT = (
    ("age", "segments are collected only when they are old", ()),
    ("margin", "old is the retention and 30 minutes more", ()),
    ("window", "fresh is 30 minutes, whatever the writer's retention", ()),
    ("read", "nothing is collected above the snapshot as just read", ()),
    ("head", "who is not fresh asks for the snapshot", ()),
    ("order", "and asks for it after the 404", ()),
    ("check", "freshness is looked at as the request is signed", ()),
    ("resign", "and again when it is signed anew", ()),
    ("lm", "a pulled segment verifies as of its Last-Modified, not as of now", ()),
    ("installed", "what a pull saw beyond the base verifies only once it is installed", ()),
    ("once", "in doubt the number is looked at once more", ()),
    ("hidden", "a snapshot that does not say who made a number leaves it open", ()),
    ("late_stamp", "a late 200 verifies as of its own signing time", ()),
    ("late_recent", "after a late 200 a newer snapshot's db-recent says whose it is", ()),
    ("older", "a snapshot older than one that was seen is refused", ("RESTORE",)),
    ("late", "a late 200 is believed only after a look at the snapshot", SLOW),
    ("known_head", "so is an own segment that is found in doubt", SLOW),
    ("sum", "the snapshot of a pull's last version has its checksum", SLOW),
    ("was_fresh", "a Last-Modified verifies only for who was fresh before", SLOW),
)
BIRTH = (
    ("condition", "a birth or replacement is conditional", ()),
    ("counter", "no two versions have equal bytes, hence ETags", ()),
    ("nonce", "who made a version is told by the nonce of its content", ()),
    ("doubt", "a 404, or the old ETag, does not end a doubt", ()),
    ("intent", "the intent is durable before the PUT", ()),
    ("lineage", "each content tried as a birth has a lineage of its own", ("LOG", "DELETE")),
)


# every rule kept: no violation. (name, model, what is special, defines)
WHOLE = (
    ("push", "push", "sync=close/manual/N, two replicas", ()),
    ("push-commit", "push", "sync=commit, two replicas", ("COMMIT",)),
    ("collect", "collect", "clocks, checkpoints, collection: any number of replicas", ()),
    ("collect-restore", "collect", "and an older snapshot put back", ("RESTORE",)),
    ("collect-slow", "collect", "and bodies on their way for hours, in units of 5 minutes", SLOW),
    ("birth-object", "birth", "birth and replacement, object layout", ()),
    ("birth-object-foreign", "birth", "and adoption, beside a plain program", ("FOREIGN",)),
    ("birth-log", "birth", "birth and replacement, log layout", ("LOG",)),
    ("birth-log-foreign", "birth", "and adoption, beside a plain program", ("LOG", "FOREIGN")),
    ("birth-log-delete", "birth", "and KEY deleted by somebody",
     ("LOG", "DELETE", "COMMITS=2", "IDS=3")),
)
# the same, smaller: for --quick
SMALL = (
    ("push-small", "push", "sync=close/manual/N, two contents", ("IDS=3", "COMMITS=2", "LOST=1")),
    ("push-commit-small", "push", "sync=commit, two contents",
     ("COMMIT", "IDS=3", "COMMITS=2", "LOST=1")),
    ("collect-small", "collect", "clocks, checkpoints, collection: two numbers", ("V=2",)),
    ("birth-small", "birth", "birth and replacement, object layout",
     ("IDS=3", "COMMITS=2", "LOST=1")),
)
# what --quick shows to be needed
QUICK = ("push without intent", "push-commit without hold", "collect without margin",
         "collect without check", "birth without counter")


def all_checks(check):
    out = [check(model, name, f"every rule kept: {text}", defines, full=False)
           for name, model, text, defines in SMALL]
    out += [check(model, name, f"every rule kept: {text}", defines, quick=False)
            for name, model, text, defines in WHOLE]
    for model, name, rules, common in (("push", "push", PUSH, ()),
                                       ("push", "push-commit", COMMIT, ("COMMIT",)),
                                       ("collect", "collect", COLLECT, ()),
                                       ("birth", "birth", BIRTH, ())):
        for rule, text, more in rules:
            name_of = f"{name} without {rule}"
            out.append(check(model, name_of, text, [*common, *more], without=rule,
                             quick=name_of in QUICK))
    return out
