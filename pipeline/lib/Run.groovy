/** What is known about this run only as it goes on, for its end. */
class Run {
    /** One text a task whose failure did not end the run. */
    static final List<String> failures = Collections.synchronizedList([])
    /** Names of the jobs that are done. */
    static final Set<String> done = Collections.synchronizedSet(new HashSet())
    /** Why the dispatcher failed, the last time that it did. */
    static volatile String dispatchFailed = null
    /** Whether the table holds them. */
    static volatile boolean collected = false
}
