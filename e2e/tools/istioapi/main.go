// Prints, as JSON, what of Istio's API no CustomResourceDefinition says: the fields of MeshConfig, and the
// annotations and labels that Istio lists.
package main

import (
	"encoding/json"
	"os"

	"google.golang.org/protobuf/reflect/protoreflect"
	"istio.io/api/annotation"
	"istio.io/api/label"
	mesh "istio.io/api/mesh/v1alpha1"
)

// fields adds the paths of all fields of a message that have none below themselves, written as
// e2e/src/schema.rs writes them.
func fields(of protoreflect.MessageDescriptor, path string, all []string) []string {
	for at := range of.Fields().Len() {
		field := of.Fields().Get(at)
		here, value := path+field.JSONName(), field.Message()
		if field.IsMap() {
			value = field.MapValue().Message()
		}
		// Those of protobuf itself are times, numbers and any JSON.
		has := value != nil && value.Fields().Len() > 0 && value.ParentFile().Package() != "google.protobuf"
		switch {
		case field.IsMap() && has:
			here += ".*"
		case field.IsList():
			here += "[]"
		}
		if has {
			all = fields(value, here+".", all)
		} else {
			all = append(all, here)
		}
	}
	return all
}

func main() {
	all := map[string][]string{
		"MeshConfig": fields((&mesh.MeshConfig{}).ProtoReflect().Descriptor(), "", nil),
	}
	for _, one := range annotation.AllResourceAnnotations() {
		all["Annotations"] = append(all["Annotations"], one.Name)
	}
	for _, one := range label.AllResourceLabels() {
		all["Labels"] = append(all["Labels"], one.Name)
	}
	if err := json.NewEncoder(os.Stdout).Encode(all); err != nil {
		panic(err)
	}
}
