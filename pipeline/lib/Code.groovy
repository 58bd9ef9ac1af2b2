import java.nio.file.Path

/** The analysis file and what it imports from its own folder. */
class Code {
    /** Each file as `path`, and its `place` in the folder of a task; the analysis file is the first. */
    static List<Map> files(Path analysis) {
        def folder = analysis.parent
        def found = new LinkedHashSet([analysis])
        def unread = [analysis]
        while (unread) {
            def added = imported(unread.pop()).collectMany { name -> inFolder(folder, name) } - found
            found.addAll(added)
            unread.addAll(added)
        }
        return found.collect { path -> [path: path, place: "analysis/${folder.relativize(path)}".toString()] }
    }

    /** Whether it has a function for all jobs together. */
    static boolean hasSummary(Path analysis) {
        return analysis.text =~ /(?m)^(def summarise\b|summarise\s*=|from .* import .*\bsummarise\b)/
    }

    /** Names of the modules that may be imported, without what is below them. */
    private static Set<String> imported(Path file) {
        def lines = file.name.endsWith('.py') ? (file.text =~ /(?m)^\s*(?:from|import)\s+([^\n#]+)/).collect { found -> found[1] } : []
        return lines.collect { line -> line.split(/ import /)[0].split(',').collect { name -> name.trim().split(/[.\s]/)[0] } }
            .flatten().findAll() as Set
    }

    private static List<Path> inFolder(Path folder, String name) {
        def module = folder.resolve("${name}.py")
        def packaged = folder.resolve(name)
        if (module.exists()) {
            return [module]
        }
        return packaged.isDirectory() ? below(packaged) : []
    }

    private static List<Path> below(Path folder) {
        def files = []
        folder.eachFileRecurse { path ->
            if (path.isFile() && !folder.relativize(path).any { part -> part.toString() == '__pycache__' || part.toString().startsWith('.') }) {
                files << path
            }
        }
        return files.sort()
    }
}
